"""Draws how much worse than the best one every restart ended, and how many features it stores."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, PALETTE
from replications.superposition.drawing import log_ticks

MARKERS = "ovs^Dp"


def draw_restarts(frame: pd.DataFrame) -> Figure:
    """One mark per restart."""
    frame["ratio"] = frame["loss"] / frame["best_loss"]
    figure, axes = plt.subplots(figsize=(1.35 * COLUMN_WIDTH, 2.7))
    kinds = sorted(frame["stored"].unique())
    for k, kind in enumerate(kinds):
        one = frame[frame["stored"] == kind]
        shift = 1.0 + 0.035 * (k - (len(kinds) - 1) / 2)
        axes.plot(
            one["density"] * shift,
            np.maximum(one["ratio"], 1.0),
            MARKERS[int(kind) % len(MARKERS)],
            color=PALETTE[int(kind) % len(PALETTE)],
            markersize=2.8,
            alpha=0.6,
            markeredgewidth=0,
            label=f"{kind}",
        )
    axes.set(xscale="log", yscale="log", xlabel="feature density s (log scale, sparser to the right)")
    axes.set_ylabel("loss over that of the best restart")
    axes.invert_xaxis()
    axes.set_xticks(*log_ticks([1.0, 0.5, 0.2, 0.1, 0.05, 0.02]))
    highest = float(frame["ratio"].max())
    axes.set_yticks(*log_ticks([tick for tick in (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0) if tick <= 1.15 * highest]))
    axes.minorticks_off()
    axes.legend(
        title="features\nstored",
        title_fontsize=7,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        handletextpad=0.1,
    )
    return figure
