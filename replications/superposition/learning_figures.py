"""Step: draws models over training (section 5), and models of few training points (Henighan et al. 2023)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans
from replications.superposition.drawing import log_ticks

LEVEL_TITLES = {"relu": "ReLU", "linear": "linear (control)"}
EARLY = 0.2  # of training, shown for the levels; afterwards nothing moves
COURSES = {"correlated": PALETTE[0], "independent": PALETTE[1]}
SHOWN = 6
KINDS = {"feature": ("columns $W_i$", PALETTE[0]), "point": ("training points $W x$", PALETTE[1])}
DECAYS = {"weak": (PALETTE[0], "weight decay of the paper"), "strong": (PALETTE[1], "strong decay (control)")}
WIDTH_TITLES = {"weak": "weight decay of the paper", "strong": "strong decay (control)"}
MARKERS = "os^Dvp"


def draw_energy_levels(frame: pd.DataFrame) -> Figure:
    """D_i of every feature, and the loss, for the first seed."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    figure, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 3.8), sharex="col", sharey="row", height_ratios=[1.5, 1.0])
    for column, (activation, title) in enumerate(LEVEL_TITLES.items()):
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
    return figure


def draw_octahedron(courses: pd.DataFrame) -> Figure:
    """Cosine within sets, and the loss, all seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    for kind, colour in COURSES.items():
        for k, (_, course) in enumerate(courses[courses["kind"] == kind].groupby("seed")):
            label = f"{kind}{'' if kind == 'correlated' else ' (control)'}" if k == 0 else None
            left.plot(course["time"], course["within_sets"], color=colour, linewidth=0.8, alpha=0.7, label=label)
            loss = course["loss"] / course["loss"].iloc[-1]
            right.plot(course["time"], loss, color=colour, linewidth=0.8, alpha=0.7)
    left.set(title="two sets of three, m = 3", ylabel="mean cosine within sets", ylim=(-0.35, 1.5), yticks=[0, 0.5, 1])
    left.set_xlabel("share of training")
    left.legend(frameon=False, loc="upper right")
    right.set(yscale="log", xlabel="share of training", ylabel="loss / final loss")
    right.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    right.minorticks_off()
    return figure


def draw_double_descent(frame: pd.DataFrame, vectors: pd.DataFrame) -> Figure:
    """Top: vectors of the first seed; bottom: losses and shares of all seeds."""
    sizes = np.sort(frame["points"].unique())
    chosen = sizes[np.unique(np.linspace(0, len(sizes) - 1, SHOWN).round().astype(int))]
    figure = plt.figure(figsize=(PAGE_WIDTH, 5.0))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[2.4, 2.6])).tolist()
    grid = top.subplots(2, len(chosen))
    for line, (kind, (label, colour)) in zip(grid, KINDS.items(), strict=True):
        for axes, size in zip(line, chosen, strict=True):
            part = vectors[(vectors["points"] == size) & (vectors["kind"] == kind)]
            ends = part[["x", "y"]].to_numpy()
            rays = np.stack([np.zeros_like(ends), ends], axis=1)
            axes.add_collection(LineCollection(rays.tolist(), colors=colour, linewidths=0.5, alpha=0.6))
            axes.plot(part["x"], part["y"], "o", color=colour, markersize=1.8)
            reach = 1.1 * float(np.abs(ends).max())
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axes.spines[["left", "bottom"]].set_visible(False)
        line[0].set_ylabel(label)
    for axes, size in zip(grid[0], chosen, strict=True):
        axes.set_title(f"T = {size}", fontsize=7)
    left, right = bottom.subplots(1, 2)
    for decay, (colour, label) in DECAYS.items():
        part = frame[frame["decay"] == decay]
        left.plot(part["points"], part["test_loss"], "o", color=colour, markersize=3, alpha=0.5)
        mean = part.groupby("points")["test_loss"].mean()
        left.plot(mean.index, mean, color=colour, linewidth=1.0, label=label)
    left.set(ylabel="test loss")
    weak = frame[frame["decay"] == "weak"]
    for column, (label, colour) in {
        "feature_share": ("features", PALETTE[0]),
        "point_share": ("training points", PALETTE[1]),
    }.items():
        right.plot(weak["points"], weak[column], "o", color=colour, markersize=3, alpha=0.5)
        mean = weak.groupby("points")[column].mean()
        right.plot(mean.index, mean, color=colour, linewidth=1.0, label=label)
    right.set(ylabel="dimensionality, weighted by length", yscale="log")
    lowest = float(weak[["feature_share", "point_share"]].min().min())
    right.set_yticks(*log_ticks([tick for tick in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3) if tick > 0.6 * lowest]))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="training points T")
        axes.set_xticks(*log_ticks([float(size) for size in sizes]))
        axes.tick_params(axis="x", labelrotation=45)
        axes.minorticks_off()
        axes.legend(frameon=False)
    return figure


def draw_widths(frame: pd.DataFrame) -> Figure:
    """One panel per weight decay; marks are seeds, lines their mean."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6), sharey=True)
    sizes = np.sort(frame["points"].unique())
    for axes, (decay, title) in zip(panels, WIDTH_TITLES.items(), strict=True):
        for k, (hidden, part) in enumerate(frame[frame["decay"] == decay].groupby("hidden")):
            colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
            axes.plot(part["points"], part["test_loss"], marker, color=colour, markersize=3, alpha=0.5)
            mean = part.groupby("points")["test_loss"].mean()
            axes.plot(
                mean.index,
                mean,
                marker,
                linestyle="-",
                color=colour,
                linewidth=1.0,
                markersize=4,
                label=f"m = {hidden}",
            )
        axes.set(xscale="log", xlabel="training points T", title=title)
        axes.set_xticks(*log_ticks([float(size) for size in sizes]))
        axes.minorticks_off()
    panels[0].set(ylabel="test loss")
    panels[1].legend(title="hidden units", title_fontsize=7, frameon=False)
    return figure


PLANS = {
    "energy_levels/energy_levels": Plan(draw_energy_levels, ("table.csv",)),
    "octahedron/octahedron": Plan(draw_octahedron, ("table.csv",)),
    "double_descent/double_descent": Plan(draw_double_descent, ("table.csv", "columns.csv")),
    "widths/widths": Plan(draw_widths, ("table.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
