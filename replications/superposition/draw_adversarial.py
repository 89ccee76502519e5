"""Step: draws adversarial vulnerability against density, and against features per dimension (section 7)."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.cli import run
from common.plotting import PAGE_WIDTH, PALETTE, save_figure, use_style
from replications.superposition.drawing import log_ticks

KINDS = {"vulnerability": ("o", "worst direction"), "random": ("s", "random direction (control)")}


def draw_adversarial(*, table: Path, caption: Path, out: Path) -> None:
    """One mark per seed and density. `out` is the SVG."""
    frame = pd.read_csv(table)
    use_style()
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
    save_figure(figure, out.with_suffix(""), frame, caption, [table])


if __name__ == "__main__":
    run(draw_adversarial)
