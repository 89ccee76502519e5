"""Draws how the pentagon gives way to two digons as one feature becomes rarer, and the two loss branches."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.superposition.drawing import draw_plane, log_ticks

SHOWN = 6
PAPER = 2.5
STYLES = {"pentagon": ("o", PALETTE[2], "pentagon"), "digons": ("s", PALETTE[1], "two digons, rare feature dropped")}


def draw_rarer(losses: pd.DataFrame, models: pd.DataFrame) -> Figure:
    """Top: best models of the first seed; bottom: best loss of each branch, all seeds."""
    one = models[models["seed"] == models["seed"].iloc[0]]
    ratios = np.sort(one["ratio"].unique())[::-1]
    chosen = ratios[np.unique(np.linspace(0, len(ratios) - 1, SHOWN).round().astype(int))]
    figure = plt.figure(figsize=(PAGE_WIDTH, 3.9))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.3, 2.6])).tolist()
    for axes, ratio in zip(top.subplots(1, len(chosen)), chosen, strict=True):
        draw_plane(axes, one[one["ratio"] == ratio])
        axes.set_title(f"{1 / ratio:.2g} times rarer" if ratio < 1 else "equally frequent", fontsize=7)
    axes = bottom.subplots()
    for branch, (marker, colour, label) in STYLES.items():
        rows = losses[losses["branch"] == branch]
        axes.plot(1 / rows["ratio"], rows["loss"], marker, color=colour, markersize=3.2, alpha=0.6, label=label)
    theory = losses.drop_duplicates("ratio").sort_values("ratio")
    axes.plot(1 / theory["ratio"], theory["digon_theory"], color="0.3", linewidth=0.9, label="digons, closed form")
    axes.axvline(PAPER, color="0.6", linestyle=":", linewidth=0.9)
    axes.annotate("paper: about 2.5", (1.015 * PAPER, 0.97), xycoords=("data", "axes fraction"), fontsize=6.5, va="top")
    axes.set(xscale="log", yscale="log", xlabel="how many times rarer the odd feature is", ylabel="loss")
    axes.set_xticks(*log_ticks([1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0]))
    axes.set_yticks(*log_ticks([0.003, 0.005, 0.01, 0.02]))
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper right")
    return figure
