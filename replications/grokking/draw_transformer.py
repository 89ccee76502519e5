"""Step: draws the progress of the transformers along training, and the frequencies that they end with."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans

TRAIN, TEST, KEPT, REMOVED, GREY = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3], "0.6"
TITLES = {"late": "small share, weight decay", "prompt": "large share, weight decay", "free": "small share, no decay"}


def losses(frame: pd.DataFrame, progress: pd.DataFrame) -> Picture:
    """Losses of every arm and seed, with restricted and excluded loss."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.6), sharey=True)
    for place, (arm, title) in zip(axes, TITLES.items(), strict=True):
        for _, one in frame[frame["arm"] == arm].groupby("seed"):
            _line(place, one["step"], one["loss_train"], TRAIN)
            _line(place, one["step"], one["loss_test"], TEST)
        place.set(yscale="log", xlabel="step", title=title)
    for _, one in progress.groupby("seed"):
        _line(axes[0], one["step"], one["restricted"], KEPT, "--")
        _line(axes[0], one["step"], one["excluded"], REMOVED, "--")
    axes[0].set_ylabel("loss (nats, log scale)")
    labels = {"trained pairs": TRAIN, "held-out pairs": TEST, "restricted": KEPT, "excluded": REMOVED}
    handles = [Line2D([], [], color=colour, linestyle="-" if colour in (TRAIN, TEST) else "--")
               for colour in labels.values()]  # fmt: skip
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, pd.concat([frame, progress.assign(arm="late")])


def _line(axes: Axes, x: pd.Series, y: pd.Series, colour: str, style: str = "-") -> None:
    axes.plot(x, y.clip(lower=1e-9), style, color=colour, linewidth=0.9, alpha=0.8)


def basis(frame: pd.DataFrame) -> Figure:
    """Power of the embedding by frequency, when the pairs are known by heart and at the end."""
    seeds = sorted(frame["seed"].unique())
    figure, axes = plt.subplots(
        len(seeds), 2, figsize=(PAGE_WIDTH, 0.6 + 0.75 * len(seeds)), sharex=True, sharey=True, squeeze=False
    )
    for row, seed in zip(axes, seeds, strict=True):
        for place, moment in zip(row, ("memorised", "end"), strict=True):
            one = frame[(frame["seed"] == seed) & (frame["moment"] == moment)]
            colours = np.where(one["key"] & (moment == "end"), TEST, GREY)
            place.bar(one["frequency"], one["embedding"], color=colours, width=0.9)
        row[0].set_ylabel(f"seed {seed}")
    axes[0, 0].set_title("pairs known by heart")
    axes[0, 1].set_title("end (orange: key frequencies of the logits)")
    for place in axes[-1]:
        place.set_xlabel("frequency k")
    figure.supylabel("share of power", fontsize=8)
    return figure


PLANS = {
    "transformer/losses": Plan(losses, ("curves.csv", "progress.csv")),
    "transformer/basis": Plan(basis, ("frequencies.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
