"""Draws D_i of every feature over training, with the loss, and the stages of an octahedron (section 5)."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

TITLES = {"relu": "ReLU", "linear": "linear (control)"}
EARLY = 0.2  # of training, shown for the levels; afterwards nothing moves
KINDS = {"correlated": PALETTE[0], "independent": PALETTE[1]}


def draw_learning(frame: pd.DataFrame, courses: pd.DataFrame) -> Figure:
    """Left and middle: levels of the first seed; right: the octahedra, all seeds."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    figure, axes = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 3.8), sharex="col", height_ratios=[1.5, 1.0])
    for column, (activation, title) in enumerate(TITLES.items()):
        part = one[one["activation"] == activation]
        for _, feature in part.groupby("feature"):
            axes[0, column].plot(feature["time"], feature["dimensionality"], color=PALETTE[0], linewidth=0.5, alpha=0.5)
        course = part[part["feature"] == 0]
        axes[1, column].plot(course["time"], course["loss"] / course["loss"].iloc[-1], color="black", linewidth=0.9)
        axes[0, column].set(title=title, ylim=(-0.03, 1.0))
        axes[1, column].set(xlabel="share of training", ylim=(0.99, 1.12), xlim=(-0.005, EARLY))
    axes[0, 0].axhline(0.5, color="0.75", linewidth=0.7, zorder=0)
    axes[0, 0].set_ylabel("dimensionality $D_i$")
    axes[1, 0].set_ylabel("loss / final loss")
    for kind, colour in KINDS.items():
        for k, (_, course) in enumerate(courses[courses["kind"] == kind].groupby("seed")):
            label = f"{kind}{'' if kind == 'correlated' else ' (control)'}" if k == 0 else None
            axes[0, 2].plot(course["time"], course["within_sets"], color=colour, linewidth=0.8, alpha=0.7, label=label)
            loss = course["loss"] / course["loss"].iloc[-1]
            axes[1, 2].plot(course["time"], loss, color=colour, linewidth=0.8, alpha=0.7)
    axes[0, 2].set(
        title="two sets of three, m = 3", ylabel="mean cosine within sets", ylim=(-0.35, 1.5), yticks=[0, 0.5, 1]
    )
    axes[0, 2].legend(frameon=False, loc="upper right")
    axes[1, 2].set(yscale="log", xlabel="share of training")
    axes[1, 2].set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    axes[1, 2].minorticks_off()
    return figure
