"""Draws features and training points in the plane from few points to many, test loss and shares."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.superposition.drawing import log_ticks

SHOWN = 6
KINDS = {"feature": ("columns $W_i$", PALETTE[0]), "point": ("training points $W x$", PALETTE[1])}
DECAYS = {"weak": (PALETTE[0], "weight decay of the paper"), "strong": (PALETTE[1], "strong decay (control)")}


def draw_double_descent(frame: pd.DataFrame, vectors: pd.DataFrame) -> Figure:
    """Top: vectors of the first seed; bottom: losses and shares of all seeds."""
    sizes = np.sort(frame["points"].unique())
    chosen = sizes[np.unique(np.linspace(0, len(sizes) - 1, SHOWN).round().astype(int))]
    figure = plt.figure(figsize=(PAGE_WIDTH, 5.0))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[2.4, 2.6])).tolist()
    grid = top.subplots(2, len(chosen))
    for line, (kind, (label, colour)) in zip(grid, KINDS.items(), strict=True):
        for axes, size in zip(line, chosen, strict=True):
            part = vectors[(vectors["points"] == size) & (vectors["kind"] == kind)]
            ends = part[["x", "y"]].to_numpy()
            rays = np.stack([np.zeros_like(ends), ends], axis=1)
            axes.add_collection(LineCollection(rays.tolist(), colors=colour, linewidths=0.5, alpha=0.6))
            axes.plot(part["x"], part["y"], "o", color=colour, markersize=1.8)
            reach = 1.1 * float(np.abs(ends).max())
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axes.spines[["left", "bottom"]].set_visible(False)
        line[0].set_ylabel(label)
    for axes, size in zip(grid[0], chosen, strict=True):
        axes.set_title(f"T = {size}", fontsize=7)
    left, right = bottom.subplots(1, 2)
    for decay, (colour, label) in DECAYS.items():
        part = frame[frame["decay"] == decay]
        left.plot(part["points"], part["test_loss"], "o", color=colour, markersize=3, alpha=0.5)
        mean = part.groupby("points")["test_loss"].mean()
        left.plot(mean.index, mean, color=colour, linewidth=1.0, label=label)
    left.set(ylabel="test loss")
    weak = frame[frame["decay"] == "weak"]
    for column, (label, colour) in {
        "feature_share": ("features", PALETTE[0]),
        "point_share": ("training points", PALETTE[1]),
    }.items():
        right.plot(weak["points"], weak[column], "o", color=colour, markersize=3, alpha=0.5)
        mean = weak.groupby("points")[column].mean()
        right.plot(mean.index, mean, color=colour, linewidth=1.0, label=label)
    right.set(ylabel="dimensionality, weighted by length", yscale="log")
    lowest = float(weak[["feature_share", "point_share"]].min().min())
    right.set_yticks(*log_ticks([tick for tick in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3) if tick > 0.6 * lowest]))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="training points T")
        axes.set_xticks(*log_ticks([float(size) for size in sizes]))
        axes.tick_params(axis="x", labelrotation=45)
        axes.minorticks_off()
        axes.legend(frameon=False)
    return figure
