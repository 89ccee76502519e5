"""Figures of activation patching: streams and outputs by position and layer, and heads by layer."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from common.core.figures import DIVERGING, PAGE_WIDTH

DIRECTIONS = {"noising": "noising", "denoising": "denoising"}
KINDS = {"resid": "residual stream", "attn": "attention output", "mlp": "MLP output"}
PLACES = {"io": "IO", "s1": "S1", "s1_next": "S1+1", "s2": "S2", "end": "END"}
WRITTEN_FROM = 8.0  # percent: smaller effects stay without a number


def streams(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effects by layer and position, noising above and denoising below."""
    shown = table[table["kind"] != "head"]
    rows = shown["layer"].nunique()
    figure, panels = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 1.6 + 0.19 * rows), width_ratios=[5, 3, 3])
    for axes_row, direction in zip(panels, DIRECTIONS, strict=True):
        for axes, (kind, title) in zip(axes_row, KINDS.items(), strict=True):
            part = shown[(shown["direction"] == direction) & (shown["kind"] == kind)]
            grid = part.pivot(index="layer", columns="place", values="percent")
            grid = grid[[place for place in PLACES if place in grid]]
            image = _grid(axes, grid, [PLACES[place] for place in grid.columns])
            axes.set_title(f"{direction}: {title}", loc="left", fontsize=7)
        axes_row[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.015, extend="both")
    bar.set_label("effect on the logit difference, %")
    return figure, shown


def patched_heads(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effects by layer and head at S2 and END."""
    shown = table[table["kind"] == "head"]
    n_layers = shown["layer"].nunique()
    figure, panels = plt.subplots(1, 4, figsize=(PAGE_WIDTH, 1.3 + 0.115 * n_layers), sharey=True)
    pairs = [("noising", "s2"), ("noising", "end"), ("denoising", "s2"), ("denoising", "end")]
    for axes, (direction, place) in zip(panels, pairs, strict=True):
        part = shown[(shown["direction"] == direction) & (shown["place"] == place)]
        grid = part.pivot(index="layer", columns="head", values="percent")
        image = _grid(axes, grid, [str(head) for head in grid.columns], fontsize=4.5)
        axes.set_title(f"{direction}, {PLACES[place]}", loc="left", fontsize=7)
        axes.set_xlabel("head")
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.015, extend="both")
    bar.set_label("effect on the logit difference, %")
    return figure, shown


def _grid(axes: Axes, grid: pd.DataFrame, columns: list[str], fontsize: float = 5.0) -> AxesImage:
    image = axes.imshow(grid.to_numpy(), cmap=DIVERGING, vmin=-100, vmax=100, aspect="auto", interpolation="none")
    for row, values in enumerate(grid.to_numpy()):
        for column, value in enumerate(values):
            if abs(value) >= WRITTEN_FROM:
                text = f"{value:+.0f}".replace("-", "\N{MINUS SIGN}")
                colour = "white" if abs(value) > 60 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=colour)
    every = max(1, len(grid) // 10)
    axes.set_yticks(range(0, len(grid), every), [str(layer) for layer in grid.index[::every]])
    step = max(1, len(columns) // 5) if len(columns) > 6 else 1
    axes.set_xticks(range(0, len(columns), step), columns[::step])
    axes.tick_params(length=0, labelsize=6)
    axes.spines[:].set_visible(False)
    return image
