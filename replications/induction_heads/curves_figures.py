"""Figures of what happens along training: everything on one time axis, the loss curves, and loss by context index."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE
from replications.induction_heads.curves import convex_hull
from replications.induction_heads.drawing import ARM_COLOURS, ARM_LABELS, arms_in

SCORES = {"prefix": "prefix matching (best head)", "previous": "previous token (best head)"}
COMPARED = ["one_layer", "one_layer_smeared", "two_layers", "two_layers_smeared"]
FIRST_INDEX = 2  # of the map of slopes
HEAD_SCORES = {
    "prefix": "prefix matching",
    "previous": "previous token",
    "duplicate": "duplicate token",
    "copying": "copying",
}
HEADS_OF = ["one_layer", "two_layers"]


def co_occurrence(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
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


def loss_curves(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
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


def index_slopes(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """d loss / d ln(context index) against training, for arms with and without the change."""
    arms = [name for name in COMPARED if name in set(frame["arm"])]
    figure, axes = plt.subplots(1, len(arms), figsize=(PAGE_WIDTH, 2.1), sharey=True, squeeze=False)
    rows = []
    for ax, name in zip(axes[0], arms, strict=True):
        grid = frame[frame["arm"] == name].pivot(index="index", columns="step", values="loss")
        smooth = grid.rolling(5, center=True, min_periods=1).mean().iloc[FIRST_INDEX:]
        slope = np.gradient(smooth.to_numpy(), np.log(smooth.index.to_numpy(np.float64)), axis=0)
        mesh = ax.pcolormesh(
            smooth.columns, smooth.index, slope, cmap=DIVERGING, vmin=-3, vmax=3, shading="nearest", rasterized=True
        )
        ax.set_title(ARM_LABELS[name])
        ax.set_xlabel("step")
        table = pd.DataFrame(slope, smooth.index, smooth.columns).reset_index()
        rows.append(table.melt(id_vars="index", value_name="slope").assign(arm=name))
    axes[0, 0].set_ylabel("context index")
    figure.colorbar(mesh, ax=axes[0].tolist(), label="d loss / d ln(index)")
    return figure, pd.concat(rows)


def head_scores(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
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


def paths(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
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
