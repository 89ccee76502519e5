"""Figures of the models of natural text, with the panels and axes of Olsson et al. 2022.

Counterparts: loss curves with the bump; in-context score over training; prefix matching of every head; per-token-loss
trajectories. Also the derivative of the loss with respect to the logarithm of the token index; ablation of heads over
training.
"""

from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE, Picture
from replications.induction_heads.training_figures import ARM_COLOURS, ARM_LABELS, arms_in

MILLION = 1e6
PANELS = (
    *("one_layer", "two_layers", "three_layers", "two_layers_mlp"),
    *("one_layer_smeared", "two_layers_smeared", "one_layer_two_back"),
)
ROW = 4  # panels that stand side by side
LAYERS = (PALETTE[0], PALETTE[1], PALETTE[2])
FIRST_INDEX = 4  # of the map of slopes; bands of indices are an octave wide, because single indices are noisy
WEIGHTS = {
    "ov_eigenvalues": "OV eigenvalue score",
    "copying": "copying, 25 tokens",
    "k_composition": "K-composition over\nrandom heads",
}
GROUPS = {
    "intact": ("intact", "0.3"),
    "random": ("without random heads of the same layers", PALETTE[0]),
    "writers": ("without heads of the same layers that write most", PALETTE[3]),
    "previous": ("without previous-token heads", PALETTE[2]),
    "first": ("without other heads of the first layer that write most", PALETTE[5]),
    "highest": ("without heads of highest prefix score, however low", PALETTE[4]),
    "induction": ("without induction heads", PALETTE[1]),
}


def text_phase_change(curves: pd.DataFrame, heads: pd.DataFrame) -> Picture:
    """Above: loss and in-context score of every arm. Below: prefix matching of every head, one panel per arm."""
    arms = arms_in(curves["arm"].tolist())
    rows = _rows(arms)
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.5 + 2.0 * rows))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, rows), squeeze=False)[:, 0]
    loss, score = (top.add_subplot(1, 2, place) for place in (1, 2))
    for name in arms:
        one = curves[curves["arm"] == name]
        _seeds_and_mean(loss, one, "loss", name)
        _seeds_and_mean(score, one, "score", name)
    later = curves[curves["tokens"] > 0.02 * curves["tokens"].max()]
    loss.set_ylim(0.97 * later["loss"].min(), later["loss"].max())
    loss.set(title="Loss on held-out text", xlabel="tokens (millions)", ylabel="loss (nats)")
    score.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    score.set(title="In-context score", xlabel="tokens (millions)", ylabel="loss, long minus\nshort context (nats)")
    loss.legend(frameon=False)
    panels = _panels(bottom, arms, "tokens (millions)", "prefix matching\nof every head")
    for name, ax in panels.items():
        _prefix_panel(ax, heads[heads["arm"] == name])
    deepest = max(panels, key=lambda name: heads[heads["arm"] == name]["layer"].max())
    panels["one_layer"].legend(*panels[deepest].get_legend_handles_labels(), frameon=False)
    return figure, curves[["arm", "seed", "step", "tokens", "loss", "score", "prefix", "previous"]]


def _rows(arms: list[str]) -> int:
    return ceil(sum(name in arms for name in PANELS) / ROW)


def _panels(figure: Figure | SubFigure, arms: list[str], xlabel: str, ylabel: str) -> dict[str, Axes]:
    """One panel an arm, of equal height; more than four stand in rows."""
    shown = [name for name in PANELS if name in arms]
    rows = _rows(arms)
    axes = figure.subplots(rows, ceil(len(shown) / rows), sharex=True, sharey=True, squeeze=False)
    found = dict(zip(shown, axes.flat, strict=False))
    for name, ax in found.items():
        ax.set_title(ARM_LABELS[name])
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    return found


def _seeds_and_mean(ax: Axes, one: pd.DataFrame, what: str, name: str) -> None:
    for _, seed in one.groupby("seed"):
        ax.plot(seed["tokens"] / MILLION, seed[what], color=ARM_COLOURS[name], linewidth=0.4, alpha=0.5)
    mean = one.groupby("tokens")[what].mean()
    ax.plot(mean.index / MILLION, mean, color=ARM_COLOURS[name], linewidth=1.3, label=ARM_LABELS[name])


def _prefix_panel(ax: Axes, one: pd.DataFrame) -> None:
    layers = sorted(one["layer"].unique())
    for layer in layers:
        for _, head in one[one["layer"] == layer].groupby(["seed", "head"]):
            ax.plot(head["tokens"] / MILLION, head["prefix"], color=LAYERS[layer], linewidth=0.5, alpha=0.6)
        ax.plot([], [], color=LAYERS[layer], label=f"layer {layer}")


def text_paths(frame: pd.DataFrame) -> Picture:
    """Per-token losses along training on two principal components, mean over seeds; a dot at half the context gain."""
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH * 0.68, 3.0))
    for name in arms_in(frame["arm"].tolist()):
        for k, (_, one) in enumerate(frame[frame["arm"] == name].groupby("seed")):
            label = ARM_LABELS[name] if k == 0 else "_"
            ax.plot(one["first"], one["second"], color=ARM_COLOURS[name], linewidth=0.7, label=label)
            if (final := one["gain"].iloc[-1]) > 0.05:
                half = one[one["gain"] >= final / 2].iloc[0]
                ax.plot(half["first"], half["second"], "o", color=ARM_COLOURS[name], markersize=3)
    first, second = (round(100 * frame[f"{which}_share"].iloc[0]) for which in ("first", "second"))
    ax.set(xlabel=f"1st component ({first} % of variance)", ylabel=f"2nd component ({second} %)")
    figure.legend(loc="outside right center", frameon=False)
    return figure, frame


def text_slopes(frame: pd.DataFrame) -> Picture:
    """d loss / d ln(context index) against training: loss in bands of context, differences between neighbours."""
    arms = arms_in(frame["arm"].tolist())
    figure = plt.figure(figsize=(PAGE_WIDTH, 0.3 + 1.8 * _rows(arms)))
    panels = _panels(figure, arms, "tokens (millions)", "context index")
    last = frame["index"].max() + 1
    edges = FIRST_INDEX * 2.0 ** np.arange(np.ceil(np.log2(last / FIRST_INDEX)) + 1)
    centres = np.sqrt(edges[:-1] * np.minimum(edges[1:], last))
    rows = []
    for name, ax in panels.items():
        one = frame[(frame["arm"] == name) & (frame["index"] >= FIRST_INDEX)]
        band = np.searchsorted(edges, one["index"], side="right") - 1
        grid = one.assign(band=band).groupby(["band", "tokens"])["loss"].mean().unstack()
        slope = np.gradient(grid.to_numpy(), np.log(centres), axis=0)
        millions = grid.columns.to_numpy(np.float64) / MILLION
        mesh = ax.pcolormesh(
            millions, centres, slope, cmap=DIVERGING, vmin=-0.4, vmax=0.4, shading="nearest", rasterized=True
        )
        ax.set_yscale("log")
        table = pd.DataFrame(slope, centres, grid.columns).rename_axis(index="index").reset_index()
        rows.append(table.melt(id_vars="index", var_name="tokens", value_name="slope").assign(arm=name))
    figure.colorbar(mesh, ax=list(panels.values()), label="d loss / d ln(index)")
    return figure, pd.concat(rows)


def text_heads(frame: pd.DataFrame) -> Picture:
    """Every head after training: OV eigenvalues, copying and K-composition against prefix matching; grey: untrained."""
    arms = arms_in(frame["arm"].tolist())
    trained = frame[frame["step"] > 0]
    figure, axes = plt.subplots(1, len(WEIGHTS), figsize=(PAGE_WIDTH, 2.5), squeeze=False)
    for ax, (score, label) in zip(axes[0], WEIGHTS.items(), strict=True):
        before = frame[frame["step"] == 0]
        ax.plot(before["prefix"], before[score], ".", color="0.85", markersize=2.5, zorder=0, label="before training")
        for name in arms:
            one = trained[(trained["arm"] == name) & ((trained["layer"] > 0) | (score != "k_composition"))]
            ax.plot(one["prefix"], one[score], ".", color=ARM_COLOURS[name], markersize=3, label=ARM_LABELS[name])
        ax.set(xlabel="prefix matching (end)", title=label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, markerscale=2)
    return figure, frame


def text_ablations(frame: pd.DataFrame) -> Picture:
    """In-context score over training, intact and without groups of heads, patterns kept; thin lines are seeds."""
    arms = arms_in(frame["arm"].tolist())
    figure = plt.figure(figsize=(PAGE_WIDTH, 0.7 + 1.8 * _rows(arms)))
    panels = _panels(figure, arms, "step", "in-context score (nats)")
    for name, ax in panels.items():
        for group, (label, colour) in GROUPS.items():
            one = frame[(frame["arm"] == name) & (frame["group"] == group)]
            for _, seed in one.groupby("seed"):
                mean = seed.groupby("step")["score"].mean()
                ax.plot(mean.index, mean, color=colour, linewidth=0.4, alpha=0.5)
            mean = one.groupby("step")["score"].mean()
            ax.plot(mean.index, mean, color=colour, linewidth=1.2, marker="o", markersize=2, label=label)
        ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    handles, labels = panels["one_layer"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, frame
