"""Draws what trained, soft-frozen, frozen and untrained dictionaries explain and cost the model."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.plotting import PAGE_WIDTH, PALETTE

KINDS = {
    "trained": "trained",
    "soft": "soft-frozen decoder",
    "frozen": "frozen decoder",
    "random": "untrained dictionary",
    "pca": "principal components",
}
PANELS = {
    "explained": "variance explained",
    "recovered": "loss recovered",
    "delta_ce": "cross-entropy added",
    "kl": "KL (nats)",
}


def draw_dictionaries(rows: pd.DataFrame) -> Figure:
    """One panel per number, one line per kind, seeds as marks."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.1), sharey=True)
    places = dict(zip(KINDS, np.arange(len(KINDS))[::-1], strict=True))
    for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
        means = rows.groupby("kind", sort=False)[key].mean()
        height = [places[str(kind)] for kind in means.index]
        axes.hlines(height, 0, means, color="0.85", linewidth=5, zorder=0)
        axes.plot(rows[key], rows["kind"].map(places), "o", color=PALETTE[0], markersize=4, alpha=0.8)
        for kind, value in means.items():
            axes.text(
                0.98, places[str(kind)] + 0.22, f"{value:.2f}", transform=axes.get_yaxis_transform(), ha="right",
                fontsize=6.5, color="0.35",
            )  # fmt: skip
        axes.set(xlabel=label, xlim=(0, 1.2 * max(1.0, rows[key].max())))
        if key in ("explained", "recovered"):
            axes.set_xticks([0, 0.5, 1])
    panels[0].set_yticks(list(places.values()), list(KINDS.values()))
    panels[0].set_ylim(-0.5, len(KINDS) - 0.4)
    return figure
