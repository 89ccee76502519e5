"""Figures of path patching: one heat map for each receiver set, and attention against contribution."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.plotting import DIVERGING, PAGE_WIDTH, PALETTE
from replications.ioi_circuit.labels import PLACE_OF_RECEIVER

TITLES = {
    "logits": "to the logits\nat END",
    "mover_queries": "to the movers'\nqueries at END",
    "inhibition_values": "to S-heads'\nvalues at S2",
    "inhibition_keys": "to S-heads'\nkeys at S2",
    "induction_keys": "to induction\nkeys at S1+1",
}
CLASS_COLOURS = {
    "name_mover": PALETTE[0],
    "negative": PALETTE[1],
    "s_suppressing": PALETTE[2],
    "unclassified": "0.6",
}
WRITTEN_FROM = 2.0  # percent: smaller effects stay without a number


def sweeps(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effect of every head on each receiver set."""
    n_layers = int(table["layer"].max()) + 1
    figure, panels = plt.subplots(1, len(TITLES), figsize=(PAGE_WIDTH, 1.5 + 0.12 * n_layers), sharey=True)
    limit = float(np.quantile(table[list(TITLES)].abs().to_numpy(), 0.999))
    for axes, (receiver, title) in zip(panels, TITLES.items(), strict=True):
        grid = table.pivot(index="layer", columns="head", values=receiver).to_numpy()
        image = axes.imshow(grid, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
        for layer, head in zip(*np.nonzero(np.abs(grid) >= WRITTEN_FROM), strict=True):
            text = f"{grid[layer, head]:+.0f}".replace("-", "\N{MINUS SIGN}")
            colour = "white" if abs(grid[layer, head]) > 0.6 * limit else "black"
            axes.text(head, layer, text, ha="center", va="center", fontsize=4.5, color=colour)
        axes.set_title(title, loc="left", fontsize=7)
        axes.set_xlabel("head")
        axes.tick_params(length=0, labelsize=6)
        axes.set_xticks(range(0, grid.shape[1], 2))
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.7, pad=0.015, extend="both")
    bar.set_label("change of logit(IO) \N{MINUS SIGN} logit(S), % of its mean")
    columns = ["layer", "head", *(f"{name}{end}" for name in PLACE_OF_RECEIVER for end in ("", "_io", "_s", "_class"))]
    return figure, table[columns]


def attention(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Attention of the strongest heads against what they write."""
    size = table.groupby("head")["written"].apply(lambda values: values.mean().__abs__())
    strongest = size.sort_values(ascending=False).index[:8]
    shown = table[table["head"].isin(strongest)]
    figure, panels = plt.subplots(2, 4, figsize=(PAGE_WIDTH, 3.8), sharex=True, sharey=True)
    for axes, head in zip(panels.flat, strongest, strict=False):
        _one_head(axes, shown[shown["head"] == head], head)
    for axes in panels.flat[len(strongest) :]:
        axes.set_visible(False)
    figure.supxlabel("attention from END to the name", fontsize=8)
    figure.supylabel("what the head adds to the name's logit", fontsize=8)
    handles = [
        Line2D([], [], marker=marker, linestyle="", color="0.3", label=label)
        for label, marker in (("IO", "o"), ("S (S1 and S2)", "x"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure, shown


def _one_head(axes: Axes, part: pd.DataFrame, head: str) -> None:
    kind = str(part["class"].iloc[0])
    for name, marker in (("IO", "o"), ("S", "x")):
        one = part[part["name"] == name]
        axes.scatter(one["attention"], one["written"], marker=marker, s=12, color=CLASS_COLOURS[kind], alpha=0.8)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_title(f"{head} {kind.replace('_', ' ')}", loc="left", fontsize=7)
