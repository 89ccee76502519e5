"""Draws what trained, soft-frozen, frozen and untrained dictionaries explain, cost, tell and find."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

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
    "probe_k1": "accuracy of one feature",
    "hard_explained": "explained, hard world",
    "hard_found": "found, hard world",
    "easy_found": "found, easy world",
}
IN_NATS = ("delta_ce", "kl")


def draw_dictionaries(rows: pd.DataFrame) -> Figure:
    """One panel per number, one line per kind, seeds as marks."""
    figure, panels = plt.subplots(2, len(PANELS) // 2, figsize=(PAGE_WIDTH, 4.0), sharey=True)
    for axes, (key, label) in zip(panels.flat, PANELS.items(), strict=True):
        panel(axes, rows[rows[key].notna()], key)
        axes.set(xlabel=label)
    places = list(heights().values())
    panels[0, 0].set_yticks(places, list(KINDS.values()))
    panels[0, 0].set_ylim(-0.5, len(KINDS) - 0.4)
    panels[0, 0].set_title("language model", loc="left")
    panels[1, 1].set_title("planted dictionaries", loc="left")
    return figure


def heights() -> dict[str, int]:
    return dict(zip(KINDS, range(len(KINDS))[::-1], strict=True))


def panel(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    """Marks, bars to the means, and the means as numbers at the right."""
    places = heights()
    means = rows.groupby("kind", sort=False)[key].mean()
    start = 0.5 if key.startswith("probe") else 0.0  # chance
    axes.hlines([places[str(kind)] for kind in means.index], start, means, color="0.85", linewidth=5, zorder=0)
    axes.plot(rows[key], rows["kind"].map(places), "o", color=PALETTE[0], markersize=4, alpha=0.8)
    for kind, value in means.items():
        axes.text(
            0.98, places[str(kind)] + 0.22, f"{value:.2f}", transform=axes.get_yaxis_transform(), ha="right",
            fontsize=6.5, color="0.35",
        )  # fmt: skip
    if key in IN_NATS:
        axes.set_xlim(0, 1.2 * max(1.0, rows[key].max()))
    else:
        axes.set(xlim=(start, start + 1.2 * (1 - start)), xticks=np.linspace(start, 1, 3).round(2))
