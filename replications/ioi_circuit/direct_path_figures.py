"""Figures: heat map layer x head of the direct path, and the strongest heads taken apart."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE

PANELS = {"difference": "logit(IO) \N{MINUS SIGN} logit(S)", "logit_io": "logit(IO)", "logit_s": "logit(S)"}
WRITTEN_FROM = 5.0  # percent: smaller effects stay without a number
STRONGEST = 12


def heat_map(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effect of every head on both logits and on their difference."""
    shown = table[table["partner"] == "abc"]
    limit = shown["percent"].abs().max()
    n_layers = shown["layer"].max() + 1
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 1.4 + 0.125 * n_layers), sharey=True)
    for axes, (quantity, title) in zip(panels, PANELS.items(), strict=True):
        grid = shown[shown["quantity"] == quantity].pivot(index="layer", columns="head", values="percent").to_numpy()
        image = _grid(axes, grid, limit)
        axes.set_title(f"effect on {title}", loc="left")
        axes.set_xlabel("head")
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.7, pad=0.015)
    bar.set_label("change, % of the mean logit difference")
    return figure, shown


def _grid(axes: Axes, grid: np.ndarray, limit: float) -> AxesImage:
    image = axes.imshow(grid, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    for layer, head in zip(*np.nonzero(np.abs(grid) >= WRITTEN_FROM), strict=True):
        value = grid[layer, head]
        text = f"{value:+.0f}".replace("-", "\N{MINUS SIGN}")
        colour = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(head, layer, text, ha="center", va="center", fontsize=5.5, color=colour)
    axes.set_xticks(range(grid.shape[1]))
    axes.set_yticks(range(grid.shape[0]))
    axes.tick_params(length=0, labelsize=6)
    axes.spines[:].set_visible(False)
    return image


def strongest_heads(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left: with the control. Right: effects on the two logits apart."""
    ranked = table[(table["partner"] == "abc") & (table["quantity"] == "difference")]
    chosen = ranked.reindex(ranked["percent"].abs().sort_values(ascending=False).index[:STRONGEST])
    chosen = chosen.sort_values("percent")[["layer", "head"]].reset_index(drop=True)
    chosen["rank"] = chosen.index
    shown = table.merge(chosen, on=["layer", "head"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.2), sharey=True, width_ratios=[1.2, 1])
    for partner, colour, label in (
        ("abc", PALETTE[0], "from an ABC prompt: roles removed"),
        ("nouns_redrawn", PALETTE[1], "control, other nouns: roles kept"),
    ):
        part = shown[(shown["partner"] == partner) & (shown["quantity"] == "difference")].sort_values("rank")
        _points(left, part, 0.0, colour, label)
    for quantity, colour, shift in (("logit_io", PALETTE[0], -0.15), ("logit_s", PALETTE[4], 0.15)):
        part = shown[(shown["partner"] == "abc") & (shown["quantity"] == quantity)].sort_values("rank")
        _points(right, part, shift, colour, PANELS[quantity])
    left.set_yticks(
        chosen["rank"], [f"{layer}.{head}" for layer, head in zip(chosen["layer"], chosen["head"], strict=True)]
    )
    left.set_ylim(len(chosen) - 0.5, -0.5)
    left.set_ylabel("head (layer.head)")
    left.set_title(f"{PANELS['difference']}, two replacements", loc="left")
    right.set_title("the two names apart (ABC)", loc="left")
    for axes in (left, right):
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xlabel("change, % of the mean logit difference")
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1, frameon=False)
    return figure, shown.sort_values(["rank", "partner", "quantity"])


def _points(axes: Axes, part: pd.DataFrame, shift: float, colour: str, label: str) -> None:
    reach = [part["percent"] - part["ci_low"], part["ci_high"] - part["percent"]]
    axes.errorbar(part["percent"], part["rank"] + shift, xerr=reach, fmt="o", color=colour, label=label, markersize=4)
