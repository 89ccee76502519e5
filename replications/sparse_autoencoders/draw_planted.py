"""Draws recovery against variance explained on planted dictionaries, and dead latents with and without AuxK."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from common.core.metrics import Metric

WORLDS = {"easy": ("easy world", PALETTE[0]), "hard": ("hard world", PALETTE[1])}
REVIVAL = {"with_auxk": ("with AuxK", PALETTE[2]), "without_auxk": ("without AuxK", PALETTE[4])}


def draw_planted(features: pd.DataFrame, lines: pd.DataFrame, numbers: dict[str, Metric]) -> Figure:
    """Left: best cosine of each true feature. Middle: fvu over training. Right: dead latents."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.7))
    for world, (label, colour) in WORLDS.items():
        own = features[features["world"] == world]
        explained = numbers[f"{world}_explained"].value
        left.plot(*cumulated(own["cosine"]), color=colour, label=f"{label}, explains {explained:.2f}")
        left.plot(*cumulated(own["random_cosine"]), color=colour, linestyle=":", label=f"{label}, untrained")
        curve(middle, lines[lines["experiment"] == world], "fvu", label, colour)
    left.set(
        xlabel="largest cosine with a decoder row", ylabel="share of true features", xlim=(0, 1.02), ylim=(0, 1.02)
    )
    left.axvline(0.9, color="0.7", linewidth=0.8, zorder=0)
    middle.set(xlabel="share of training done", ylabel="variance unexplained", yscale="log")
    middle.set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    middle.minorticks_off()
    middle.set_ylim(0.1, 8)
    for name, (label, colour) in REVIVAL.items():
        curve(right, lines[lines["experiment"] == name], "dead", label, colour)
    right.set(xlabel="share of training done", ylabel="share of latents that are dead", ylim=(0, None))
    for axes, place in ((middle, "upper right"), (right, "upper left")):
        axes.legend(frameon=False, loc=place)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def cumulated(values: "pd.Series[float]") -> tuple[np.ndarray, np.ndarray]:
    """The empirical distribution function."""
    ordered = np.sort(values.to_numpy())
    return ordered, np.arange(1, len(ordered) + 1) / len(ordered)


def curve(axes: Axes, lines: pd.DataFrame, quantity: str, label: str, colour: str) -> None:
    """Mean over seeds, with the range of seeds."""
    by_progress = lines.groupby("progress")[quantity]
    x = by_progress.mean().index.to_numpy()
    axes.plot(x, by_progress.mean().to_numpy(), color=colour, label=label)
    axes.fill_between(x, by_progress.min().to_numpy(), by_progress.max().to_numpy(), color=colour, alpha=0.2, lw=0)
