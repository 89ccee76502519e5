"""Draws how the weaker feature enters as density falls, and the two loss branches that cross there."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.core.figures import PAGE_WIDTH, PALETTE, Picture
from replications.superposition.drawing import log_ticks

HIGHEST = 1.25  # of the right panel; higher are restarts that ended in no branch


def draw_first_order(frame: pd.DataFrame, paths: pd.DataFrame) -> Picture:
    """Left: min(|w1|, |w2|), all seeds and the exact optimum. Right: loss of each branch."""
    importances = np.sort(frame["importance"].unique())
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1.25, 1.0])
    for colour, r in zip(PALETTE, importances, strict=False):
        one = frame[frame["importance"] == r]
        exact = one.drop_duplicates("density").sort_values("density")
        left.plot(exact["density"], exact["exact_weaker"], color=colour, linewidth=0.9, label=f"exact, r = {r:g}")
        left.plot(
            one["density"],
            one["weaker"],
            "o",
            color=colour,
            markersize=2.6,
            alpha=0.6,
            markeredgewidth=0,
            label=f"trained, r = {r:g}",
        )
    left.set(xscale="log", ylim=(-0.04, 1.1), xlabel="feature density s (log scale, sparser to the right)")
    left.set_ylabel(r"weaker feature, $\min(|w_1|, |w_2|)$")
    left.legend(frameon=False, loc="center", bbox_to_anchor=(0.57, 0.42))
    low, high = frame["density"].min(), frame["density"].max()
    left.set_xticks(*log_ticks([tick for tick in (1.0, 0.7, 0.5, 0.4, 0.3) if low <= 1.001 * tick <= 1.002 * high]))
    left.invert_xaxis()
    left.minorticks_off()

    unequal = paths[paths["importance"] == importances[0]]
    exact = unequal.drop_duplicates("density").set_index("density")["exact_loss"].sort_index()
    at = _onset(frame[frame["importance"] == importances[0]])
    near = (unequal["density"] > at / 1.25) & (unequal["density"] < at * 1.25)
    styles = {"one feature": ("s", PALETTE[1]), "both features": ("^", PALETTE[2])}
    for branch, (marker, colour) in styles.items():
        one = unequal[near & (unequal["branch"] == branch)]
        ratio = one["loss"].to_numpy() / exact.loc[one["density"]].to_numpy()
        one, ratio = one[ratio < HIGHEST], ratio[ratio < HIGHEST]
        right.plot(
            one["density"], ratio, marker, color=colour, markersize=3.5, linestyle="-", linewidth=0.8, label=branch
        )
    right.axhline(1.0, color="0.6", linewidth=0.7, zorder=0)
    right.set(
        xlabel="feature density s", ylabel=f"branch loss over exact, r = {importances[0]:g}", ylim=(0.985, HIGHEST)
    )
    right.legend(frameon=False, loc="upper left", title="best restart that stores", title_fontsize=7)
    right.invert_xaxis()
    return figure, frame.merge(paths, on=["importance", "density"])


def _onset(one: pd.DataFrame) -> float:
    """Density where the exact weaker feature rises most."""
    exact = one.drop_duplicates("density").sort_values("density", ascending=False)
    return float(exact["density"].to_numpy()[np.diff(exact["exact_weaker"].to_numpy()).argmax()])
