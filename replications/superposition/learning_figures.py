"""Step: draws models over training (section 5), and models of few training points (Henighan et al. 2023)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from replications.superposition.drawing import log_ticks

SEEDS_SHOWN = 3
SHOWN_FROM = 0.05  # of training; before it all weights grow
STAGES = (0.02, 0.12, 0.3, 1.0)  # of training
COURSES = {"correlated": PALETTE[0], "independent": PALETTE[1]}
SHOWN = 6
KINDS = {"feature": ("columns $W_i$", PALETTE[0]), "point": ("training points $W x$", PALETTE[1])}
DECAYS = {"weak": (PALETTE[0], "weight decay of the paper"), "strong": (PALETTE[1], "strong decay (control)")}


def draw_energy_levels(frame: pd.DataFrame) -> Figure:
    """D_i of every feature over training, and the loss, of some seeds; bands mark the windows of most change."""
    seeds = frame["seed"].unique()[:SEEDS_SHOWN]
    figure, axes = plt.subplots(
        2, len(seeds), figsize=(PAGE_WIDTH, 3.8), sharex=True, sharey="row", height_ratios=[1.6, 1.0]
    )
    for column, seed in enumerate(seeds):
        part = frame[frame["seed"] == seed]
        shares = part.pivot(index="time", columns="feature", values="dimensionality")
        loss = part.drop_duplicates("time").set_index("time")["loss"]
        axes[0, column].plot(shares.index, shares, linewidth=0.7, alpha=0.8)
        axes[1, column].plot(loss.index, loss / loss.iloc[-1], color="black", linewidth=0.9)
        step = shares.index[1]
        for time in part[part["most_change"]]["time"].unique():
            for place in axes[:, column]:
                place.axvspan(time - step, time, color="0.88", linewidth=0, zorder=0)
        axes[0, column].set_title(f"seed {seed}")
        axes[1, column].set(xlabel="share of training", xlim=(SHOWN_FROM, 1.0))
    late = frame[frame["time"] >= SHOWN_FROM]
    last = frame[frame["time"] == 1.0].groupby("seed")["loss"].first()
    axes[1, 0].set(ylabel="loss / final loss", ylim=(0.99, 1.03 * float((late["loss"] / late["seed"].map(last)).max())))
    for share, text in {0.5: "1/2", 0.667: "2/3", 0.75: "3/4", 0.4: "2/5"}.items():
        for place in axes[0]:
            place.axhline(share, color="0.75", linewidth=0.6, zorder=0)
        axes[0, -1].annotate(text, (1.01, share), xycoords=("axes fraction", "data"), fontsize=6.5, va="center")
    axes[0, 0].set_ylabel("dimensionality $D_i$")
    return figure


def draw_octahedron(courses: pd.DataFrame, paths: pd.DataFrame) -> Picture:
    """Top: columns of one model in three dimensions, at stages and as paths. Bottom: loss, and cosine within sets."""
    figure = plt.figure(figsize=(PAGE_WIDTH, 4.2))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.25, 1.0])).tolist()
    times = np.sort(paths["time"].unique())
    stages = [float(times[np.abs(times - stage).argmin()]) for stage in STAGES]
    for k, stage in enumerate(stages):
        axes = top.add_subplot(1, len(stages), k + 1, projection="3d")
        for feature in range(6):
            course = paths[(paths["time"] <= stage) & (paths["feature"] == feature)]
            colour = PALETTE[feature // 3]
            axes.plot(course["x"], course["y"], course["z"], color=colour, linewidth=0.7, alpha=0.6)
            end = course.iloc[-1]
            axes.plot([0, end["x"]], [0, end["y"]], [0, end["z"]], color=colour, linewidth=1.1)
            axes.plot([end["x"]], [end["y"]], [end["z"]], "o", color=colour, markersize=3.5)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1), xticks=[], yticks=[], zticks=[])
        axes.set_box_aspect((1, 1, 1), zoom=1.25)
        axes.view_init(elev=22, azim=32)
        axes.set_title(f"at {stage:.0%} of training", fontsize=7)
    left, right = bottom.subplots(1, 2)
    for kind, colour in COURSES.items():
        for k, (_, course) in enumerate(courses[courses["kind"] == kind].groupby("seed")):
            label = f"{kind}{'' if kind == 'correlated' else ' (control)'}" if k == 0 else None
            left.plot(course["time"], course["loss"] / course["loss"].iloc[-1], color=colour, linewidth=0.8, alpha=0.7)
            right.plot(course["time"], course["within_sets"], color=colour, linewidth=0.8, alpha=0.7, label=label)
    for axes in (left, right):
        axes.set_xlabel("share of training")
        for stage in stages:
            axes.axvline(stage, color="0.8", linewidth=0.6, zorder=0)
    left.set(yscale="log", ylabel="loss / final loss")
    left.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    left.minorticks_off()
    right.set(ylabel="mean cosine within sets", ylim=(-0.35, 1.1), yticks=[0, 0.5, 1])
    right.legend(frameon=False, loc="upper right")
    return figure, pd.concat([courses, paths])


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


PLANS = {
    "energy_levels/energy_levels": Plan(draw_energy_levels, ("table.csv",)),
    "octahedron/octahedron": Plan(draw_octahedron, ("table.csv", "paths.csv")),
    "double_descent/double_descent": Plan(draw_double_descent, ("table.csv", "columns.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
