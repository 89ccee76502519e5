"""Draws the test loss of models of few points over their number, one line per number of hidden units."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.superposition.drawing import log_ticks

TITLES = {"weak": "weight decay of the paper", "strong": "strong decay (control)"}
MARKERS = "os^Dvp"


def draw_widths(frame: pd.DataFrame) -> Figure:
    """One panel per weight decay; marks are seeds, lines their mean."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6), sharey=True)
    sizes = np.sort(frame["points"].unique())
    for axes, (decay, title) in zip(panels, TITLES.items(), strict=True):
        for k, (hidden, part) in enumerate(frame[frame["decay"] == decay].groupby("hidden")):
            colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
            axes.plot(part["points"], part["test_loss"], marker, color=colour, markersize=3, alpha=0.5)
            mean = part.groupby("points")["test_loss"].mean()
            axes.plot(
                mean.index,
                mean,
                marker,
                linestyle="-",
                color=colour,
                linewidth=1.0,
                markersize=4,
                label=f"m = {hidden}",
            )
        axes.set(xscale="log", xlabel="training points T", title=title)
        axes.set_xticks(*log_ticks([float(size) for size in sizes]))
        axes.minorticks_off()
    panels[0].set(ylabel="test loss")
    panels[1].legend(title="hidden units", title_fontsize=7, frameon=False)
    return figure
