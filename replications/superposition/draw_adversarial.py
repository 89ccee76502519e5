"""Draws adversarial vulnerability against density, and against features per dimension (section 7)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.superposition.drawing import log_ticks

KINDS = {"vulnerability": ("o", "worst direction"), "random": ("s", "random direction (control)")}


def draw_adversarial(frame: pd.DataFrame) -> Figure:
    """One mark per seed and density."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), sharey=True)
    for (name, (marker, label)), colour in zip(KINDS.items(), PALETTE, strict=False):
        left.plot(1 / frame["density"], frame[name], marker, color=colour, markersize=2.8, alpha=0.6, label=label)
        right.plot(1 / frame["dims_per_feature"], frame[name], marker, color=colour, markersize=2.8, alpha=0.6)
    features = np.geomspace(1.0, (1 / frame["dims_per_feature"]).max(), 50)
    right.plot(features, features, color="0.5", linewidth=0.8, label="proportional")
    left.set(xlabel="1 / density (log scale, sparser to the right)", xscale="log", yscale="log")
    left.set_ylabel("excess loss, over that of a model\nwithout superposition")
    right.set(xlabel="features per dimension, 1 / D*", xscale="log")
    left.set_xticks(*log_ticks([1.0, 2.0, 5.0, 10.0, 20.0]))
    right.set_xticks(*log_ticks([1.0, 2.0, 4.0, 6.0]))
    left.set_yticks(*log_ticks([0.1, 0.3, 1.0, 3.0, 10.0]))
    for axes in (left, right):
        axes.minorticks_off()
        axes.legend(frameon=False, loc="upper left")
    return figure
