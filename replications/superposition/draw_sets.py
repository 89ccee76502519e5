"""Draws where the members of sets go: pairs, three pairs from dense to sparse, and two local bases."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE
from replications.superposition.drawing import draw_plane, log_ticks

TITLES = {"correlated": "correlated", "exclusive": "exclusive", "independent": "independent (control)"}
SHOWN = 4


def draw_sets(planes: pd.DataFrame, counts: pd.DataFrame, grams: pd.DataFrame) -> Figure:
    """Planes and heat maps of the first seed, counts of all seeds."""
    one = planes[planes["seed"] == planes["seed"].iloc[0]]
    figure = plt.figure(figsize=(PAGE_WIDTH, 5.4))
    first, second, third = np.asarray(figure.subfigures(3, 1, height_ratios=[1.5, 1.5, 2.4])).tolist()
    first.suptitle("two sets of two, m = 2 (a colour is a set)", fontsize=8, x=0.02, ha="left")
    for axes, kind in zip(first.subplots(1, len(TITLES)), TITLES, strict=True):
        _plane(axes, one[(one["arrangement"] == "pairs") & (one["kind"] == kind)], TITLES[kind])
    second.suptitle("three correlated sets of two, m = 2, dense to sparse", fontsize=8, x=0.02, ha="left")
    three = one[(one["arrangement"] == "three_pairs") & (one["kind"] == "correlated")]
    densities = np.sort(three["density"].unique())[::-1]
    chosen = densities[np.unique(np.linspace(0, len(densities) - 1, SHOWN).round().astype(int))]
    for axes, density in zip(second.subplots(1, len(chosen)), chosen, strict=True):
        _plane(axes, three[three["density"] == density], f"s = {density:g}")
    left, middle, right = third.subplots(1, 3, width_ratios=[1.35, 1.0, 1.15])
    for (kind, marker), colour in zip({"correlated": "o", "independent": "s"}.items(), PALETTE, strict=False):
        rows = counts[counts["kind"] == kind]
        mean = rows.groupby("density")["collapsed"].mean()
        left.plot(rows["density"], rows["collapsed"], marker, color=colour, markersize=3, alpha=0.35, markeredgewidth=0)
        left.plot(mean.index, mean, color=colour, linewidth=1, label=TITLES[kind])
    left.set(xscale="log", xlabel="probability s that a set is active", ylabel="collapsed pairs of three")
    left.set(ylim=(-0.15, 3.7), yticks=[0, 1, 2, 3])
    left.set_xticks(*log_ticks([0.5, 0.2, 0.1, 0.05, 0.02]))
    left.minorticks_off()
    left.invert_xaxis()
    left.legend(frameon=False, loc="upper right")
    for axes, kind in zip((middle, right), ("correlated", "independent"), strict=True):
        part = grams[grams["kind"] == kind].pivot(index="feature", columns="other", values="product")
        image = axes.imshow(part, cmap=DIVERGING, vmin=-1, vmax=1, rasterized=True)
        axes.set_title(f"$W^T W$, two sets of ten,\n{TITLES[kind]}", fontsize=7)
        axes.set(xticks=[], yticks=[])
        for line in (axes.axhline, axes.axvline):
            line(len(part) / 2 - 0.5, color="0.4", linewidth=0.6)
    third.colorbar(image, ax=right, fraction=0.05)
    return figure


def _plane(axes: Axes, columns: pd.DataFrame, title: str) -> None:
    draw_plane(axes, columns.assign(feature=columns["feature"] // 2))
    axes.set_title(title, fontsize=7)
