"""Figure of the MLP knock-outs: what is left without each MLP, in three ways."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

WAYS = {"everywhere": "at every position", "end": "at END", "direct": "at END, direct path alone"}


def mlps(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """One panel per way, one bar per layer."""
    figure, panels = plt.subplots(1, len(WAYS), figsize=(PAGE_WIDTH, 2.2), sharey=True)
    for axes, (way, title) in zip(panels, WAYS.items(), strict=True):
        part = table[table["way"] == way]
        spread = np.stack([part["left"] - part["low"], part["high"] - part["left"]])
        axes.bar(part["layer"], part["left"], color=PALETTE[0])
        axes.errorbar(part["layer"], part["left"], spread, fmt="none", ecolor="0.35", elinewidth=0.7)
        axes.axhline(1, color="0.5", linewidth=0.8, linestyle="--")
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=7)
        axes.set_xlabel("layer of the MLP")
    panels[0].set_ylabel("what is left of F(M)")
    return figure, table
