"""Figures of what happens along training: the phase change on one time axis, the sweep, and Markov chains.

Counterparts: Olsson et al. 2022, loss curves, in-context score and per-token-loss paths; Edelman et al. 2024, stages.
"""

from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.core.figures import PAGE_WIDTH, PALETTE, Picture
from replications.induction_heads.curves import convex_hull

ARM_LABELS = {
    "one_layer": "1 layer",
    "one_layer_smeared": "1 layer, smeared keys",
    "two_layers": "2 layers",
    "two_layers_smeared": "2 layers, smeared keys",
    "two_layers_added": "2 layers, added positions",
    "three_layers": "3 layers",
    "two_layers_mlp": "2 layers + MLP",
    "two_layers_narrow": "2 layers, narrow",
    "two_layers_wide": "2 layers, wide",
    "one_layer_two_back": "1 layer, smeared two back",
    "two_layers_two_back": "2 layers, smeared two back",
}
ARM_COLOURS = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(ARM_LABELS)}
ARM_COLOURS |= {"one_layer_two_back": "0.6", "two_layers_two_back": "0.4"}
SCORES = {"prefix": "prefix matching (best head)", "previous": "previous token (best head)"}
COMPARED = ["one_layer", "one_layer_smeared", "two_layers", "two_layers_smeared"]
HEAD_SCORES = {
    "prefix": "prefix matching",
    "previous": "previous token",
    "duplicate": "duplicate token",
    "copying": "copying",
}
HEADS_OF = ["one_layer", "two_layers"]
CLAMPS = {
    "plain": "first layer free",
    "previous": "held at the previous token",
    "present": "held at the present token",
}
CHAIN_PANELS = {
    "two_layers": "2 layers",
    "one_layer": "1 layer",
    "two_layers_doubly": "2 layers, doubly stochastic chains",
}
PREDICTORS = {"uniform": "uniform", "unigram": "unigram (Bayes)", "bigram": "bigram (Bayes)"}
MARKERS = ("o", "s", "^", "D")
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
TICKS = (10, 20, 50, 100, 200, 300, 400, 600, 800, 1200, 1600, 2400)


def arms_in(found: list[str]) -> list[str]:
    """The arms that occur, in the order of the legend."""
    return [name for name in ARM_LABELS if name in set(found)]


def co_occurrence(frame: pd.DataFrame) -> Picture:
    """One column per arm: loss above, gain and head scores below, all seeds."""
    arms = arms_in(frame["arm"].tolist())
    figure, axes = plt.subplots(3, len(arms), figsize=(PAGE_WIDTH, 4.2), sharex="col", sharey="row", squeeze=False)
    for (top, middle, bottom), name in zip(axes.T, arms, strict=True):
        for _, one in frame[frame["arm"] == name].groupby("seed"):
            top.plot(one["step"], one["loss"], color=PALETTE[6], linewidth=0.7)
            middle.plot(one["step"], one["gain"], color=PALETTE[0], linewidth=0.7)
            for score, colour in zip(SCORES, (PALETTE[1], PALETTE[2]), strict=True):
                bottom.plot(one["step"], one[score], color=colour, linewidth=0.7, label=SCORES[score])
        middle.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        top.set_title(ARM_LABELS[name].replace(", ", "\n").replace(" + ", "\n+ "), fontsize=7)
        bottom.set(ylim=(0, 1), xlabel="step")
    for row, label in zip(axes[:, 0], ("loss (nats)", "in-context gain\n(nats)", "score"), strict=True):
        row.set_ylabel(label)
    handles = dict(zip(*reversed(axes[2, 0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
    return figure, frame[["arm", "seed", "step", "loss", "gain", *SCORES]]


def loss_curves(frame: pd.DataFrame) -> Picture:
    """Mean over seeds of the held-out loss; shaded where a curve rises above its convex hull."""
    shown = frame[frame["arm"].isin(COMPARED)]
    mean = shown.groupby(["arm", "step"], as_index=False, sort=False)["loss"].mean()
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.62, 2.6))
    hulls = []
    for name in arms_in(mean["arm"].tolist()):
        one = mean[mean["arm"] == name]
        hull = convex_hull(one["step"].to_numpy(np.float64), one["loss"].to_numpy())
        axes.plot(one["step"], one["loss"], color=ARM_COLOURS[name], label=ARM_LABELS[name], linewidth=1.1)
        axes.fill_between(one["step"], hull, one["loss"], color=ARM_COLOURS[name], alpha=0.2, linewidth=0)
        hulls.append(one.assign(hull=hull))
    axes.set(xlabel="step", ylabel="loss on held-out sequences (nats)")
    axes.legend(frameon=False)
    return figure, pd.concat(hulls)


def head_scores(frame: pd.DataFrame) -> Picture:
    """Every head of the first seed, one row per arm, one column per score; dashed: mean over the heads of a layer."""
    arms = [name for name in HEADS_OF if name in set(frame["arm"])]
    shown = frame[frame["arm"].isin(arms) & (frame["seed"] == frame["seed"].iloc[0])]
    figure, axes = plt.subplots(
        len(arms), len(HEAD_SCORES), figsize=(PAGE_WIDTH, 1.7 * len(arms)), sharex=True, sharey="col", squeeze=False
    )
    for row, name in zip(axes, arms, strict=True):
        for ax, (score, label) in zip(row, HEAD_SCORES.items(), strict=True):
            for layer, colour in zip((1, 0), (PALETTE[1], PALETTE[0]), strict=True):
                one = shown[(shown["arm"] == name) & (shown["layer"] == layer)]
                for _, head in one.groupby("head"):
                    ax.plot(head["step"], head[score], color=colour, linewidth=0.5, alpha=0.8)
                mean = one.groupby("step")[score].mean()
                ax.plot(mean.index, mean, color=colour, linewidth=1.4, linestyle="--", label=f"layer {layer}")
            ax.set_title(label if name == arms[0] else "")
            ax.set_xlabel("step" if name == arms[-1] else "")
        row[0].set_ylabel(ARM_LABELS[name])
    handles, labels = axes[-1, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False)
    return figure, shown


def paths(frame: pd.DataFrame) -> Picture:
    """Per-token losses along training on two principal components; a dot where half of the gain is reached."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.68, 3.2))
    for name in arms_in(frame["arm"].tolist()):
        label = ARM_LABELS[name]
        for _, one in frame[frame["arm"] == name].groupby("seed"):
            axes.plot(one["first"], one["second"], color=ARM_COLOURS[name], linewidth=0.7, label=label)
            if (final := one["gain"].iloc[-1]) > 1:
                half = one[one["gain"] >= final / 2].iloc[0]
                axes.plot(half["first"], half["second"], "o", color=ARM_COLOURS[name], markersize=3)
            label = "_"
    start = frame[frame["step"] == 0]
    axes.annotate("start", (start["first"].max(), start["second"].max()), fontsize=7, ha="center", va="bottom")
    first, second = (round(100 * frame[f"{which}_share"].iloc[0]) for which in ("first", "second"))
    axes.set(
        xlabel=f"1st component ({first} % of variance)",
        ylabel=f"2nd component ({second} %)",
    )
    figure.legend(loc="outside right center", frameon=False)
    return figure, frame


def clamps(frame: pd.DataFrame) -> Picture:
    """In-context gain along training, first layer free or held at a fixed pattern; one line a seed."""
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH * 0.62, 2.4))
    for colour, (name, label) in zip(PALETTE, CLAMPS.items(), strict=False):
        for k, (_, one) in enumerate(frame[frame["clamp"] == name].groupby("seed")):
            ax.plot(one["step"], one["gain"], color=colour, linewidth=0.8, label=label if k == 0 else "_")
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlabel="step", ylabel="in-context gain (nats)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure, frame


def sweep(lines: pd.DataFrame, points: pd.DataFrame) -> Picture:
    """Left and middle: curves of all settings. Right: one time against the other, with the line of equal times."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.5))
    colours = {rate: PALETTE[i % len(PALETTE)] for i, rate in enumerate(sorted(points["rate"].unique(), reverse=True))}
    lengths = sorted(points["longest"].unique())
    for setting, one in lines.groupby("setting"):
        about = points[points["setting"] == setting].iloc[0]
        colour, place = colours[about["rate"]], lengths.index(about["longest"]) % len(MARKERS)
        for ax, what in zip(axes, ("gain", "prefix"), strict=False):
            ax.plot(one["step"], one[what], linewidth=0.9, color=colour, linestyle=LINES[place])
        axes[2].plot(about["prefix_at"], about["gain_at"], MARKERS[place], markersize=4, color=colour, linestyle="none")
    axes[0].set(xlabel="step", ylabel="in-context gain (nats)")
    axes[1].set(xlabel="step", ylabel="prefix matching (best head)")
    ends = [0.85 * points["gain_at"].min(), 1.15 * points["gain_at"].max()]
    axes[2].plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axes[2].set(xscale="log", yscale="log", xlabel="step of half the prefix score", ylabel="step of half the gain")
    ticks = [tick for tick in TICKS if ends[0] <= tick <= ends[1]]
    for axis in (axes[2].xaxis, axes[2].yaxis):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_minor_formatter("")
    handles = [Line2D([], [], color=colour, label=f"rate x {rate:g}") for rate, colour in colours.items()]
    for marker, line, length in zip(MARKERS, LINES, lengths, strict=False):
        label = f"segments up to {length}"
        handles.append(Line2D([], [], color="0.3", marker=marker, markersize=4, linestyle=line, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    return figure, points


def chains(frame: pd.DataFrame) -> Figure:
    """Above: divergence from the true chain, with the reference predictors. Below: how far each of these is from the
    model."""
    figure, axes = plt.subplots(2, len(CHAIN_PANELS), figsize=(PAGE_WIDTH, 3.9), sharex=True, sharey="row")
    for (top, bottom), (name, title) in zip(axes.T, CHAIN_PANELS.items(), strict=True):
        one = frame[frame["arm"] == name]
        for _, seed in one.groupby("seed"):
            top.plot(seed["step"], seed["truth"], color=PALETTE[6], linewidth=0.8)
            for (what, _), colour in zip(PREDICTORS.items(), PALETTE, strict=False):
                bottom.plot(seed["step"], seed[f"to_{what}"], color=colour, linewidth=0.8)
        for (what, label), colour in zip(PREDICTORS.items(), PALETTE, strict=False):
            top.axhline(one[f"best_{what}"].iloc[0], color=colour, linewidth=0.9, linestyle="--", label=label)
        top.set_title(title)
        bottom.set_xlabel("step")
    axes[0, 0].set_ylim(0, 1.5 * frame["best_uniform"].max())
    axes[1, 0].set_ylim(0, 1.1 * frame["best_uniform"].max())
    axes[0, 0].set_ylabel("divergence from\nthe truth (nats)")
    axes[1, 0].set_ylabel("divergence of the\npredictor (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=PALETTE[6]))
    figure.legend(handles, [*labels, "model"], loc="outside lower center", ncols=4, frameon=False)
    return figure
