"""Step: draws uniform superposition, sets and a rarer feature (section 4), and attacks (section 7)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE, Plan, run_plans
from replications.superposition.drawing import draw_plane, log_ticks

GUIDES = {
    1.0: "1: own dimension",
    0.75: "3/4: tetrahedron",
    0.667: "2/3: triangle",
    0.5: "1/2: digon",
    0.4: "2/5: pentagon",
    0.34: "3/8: square antiprism",  # drawn at 0.375, label moved down
}
AT = {0.34: 0.375}
GRAPHS = (0.53, 0.33, 0.21, 0.05)
HALF = 0.5
GOLDEN = np.pi * (3 - np.sqrt(5))
APART, MANY = 0.25, 150  # gap between rings; edges above which they are drawn thinner
TITLES = {"correlated": "correlated", "exclusive": "exclusive", "independent": "independent (control)"}
SHOWN_SETS = 4
SHOWN_RATIOS = 6
PAPER = 2.5
STYLES = {"pentagon": ("o", PALETTE[2], "pentagon"), "digons": ("s", PALETTE[1], "two digons, rare feature dropped")}
ATTACKS = {"vulnerability": ("o", "worst direction"), "random": ("s", "random direction (control)")}


def draw_uniform(frame: pd.DataFrame, links: pd.DataFrame) -> Figure:
    """Top: D* of both activations, and D_i of stored features, all seeds; bottom: graphs of the first seed."""
    figure = plt.figure(figsize=(PAGE_WIDTH, 5.2))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[3.4, 1.8])).tolist()
    left, right = top.subplots(1, 2, width_ratios=[1.0, 1.25], sharey=True)
    styles = {"relu": ("o", PALETTE[0], "ReLU"), "linear": ("s", PALETTE[1], "linear (control)")}
    for activation, (marker, colour, label) in styles.items():
        models = frame[(frame["activation"] == activation) & (frame["feature"] == 0)]
        mean = models.groupby("density")["dims_per_feature"].mean()
        left.plot(1 / models["density"], models["dims_per_feature"], marker, color=colour, markersize=2.6, alpha=0.5)
        left.plot(1 / mean.index, mean, color=colour, linewidth=0.9, label=label)
    left.set_ylabel("hidden dimensions per feature")
    left.set_title(r"$D^* = m / \|W\|_F^2$")
    left.legend(frameon=False, loc="lower left")
    stored = frame[(frame["activation"] == "relu") & (frame["norm"] > HALF)]
    shift = np.random.default_rng(0).uniform(0.975, 1.025, len(stored))
    right.plot(shift / stored["density"], stored["dimensionality"], ".", color=PALETTE[0], markersize=2, alpha=0.35)
    right.set_title(r"$D_i$ of every stored feature (ReLU, all seeds)")
    for place, text in GUIDES.items():
        right.axhline(AT.get(place, place), color="0.75", linewidth=0.7, zorder=0)
        right.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), fontsize=6.5, va="center", color="0.35")
    for axes in (left, right):
        axes.set(xscale="log", ylim=(0.0, 1.08), xlabel="1 / density (log scale, sparser to the right)")
        axes.set_xticks(*log_ticks([1.0, 2.0, 5.0, 10.0, 20.0]))
        axes.minorticks_off()
    densities = np.sort(frame["density"].unique())[::-1]
    chosen = [densities[np.abs(np.log(densities / wanted)).argmin()] for wanted in GRAPHS]
    one = frame[(frame["activation"] == "relu") & (frame["seed"] == frame["seed"].iloc[0])]
    for axes, density in zip(bottom.subplots(1, len(chosen)), chosen, strict=True):
        kept = set(one[(one["density"] == density) & (one["norm"] > HALF)]["feature"])
        part = links[links["density"] == density]
        _graph(axes, kept, [(int(i), int(j), x) for i, j, x in part[["feature", "other", "product"]].to_numpy()])
        axes.set_title(f"1 / density = {1 / density:.2g}", fontsize=7)
    return figure


def _graph(axes: Axes, features: set[int], links: list[tuple[int, int, float]]) -> None:
    """Connected features as rings, largest ring in the middle; an edge is |W_i . W_j|, orange where negative."""
    group = {i: {i} for i in features}
    edges = [(i, j, x) for i, j, x in links if i != j and i in features and j in features]
    for i, j, _ in edges:
        if group[i] is not group[j]:
            group[i] |= group[j]
            for k in group[j]:
                group[k] = group[i]
    rings = sorted({id(one): sorted(one) for one in group.values()}.values(), key=len, reverse=True)
    place: dict[int, np.ndarray] = {}
    circles: list[tuple[np.ndarray, float]] = []
    for k, ring in enumerate(rings):
        size = 0.28 * np.sqrt(len(ring))
        towards, far = np.array([np.cos(k * GOLDEN), np.sin(k * GOLDEN)]), 0.0
        while any(np.hypot(*(far * towards - at)) < APART + size + r for at, r in circles):
            far += APART / 5
        circles.append((far * towards, size))
        for at, i in enumerate(ring):
            turn = 2 * np.pi * at / len(ring)
            place[i] = far * towards + size * (len(ring) > 1) * np.array([np.cos(turn), np.sin(turn)])
    thin = min(1.0, (MANY / max(len(edges), 1)) ** 0.5)
    lines = [[place[i].tolist(), place[j].tolist()] for i, j, _ in edges]
    colours = [PALETTE[1] if x < 0 else PALETTE[0] for *_, x in edges]
    widths = [thin * min(1.2, 1.4 * abs(x)) for *_, x in edges]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=widths, alpha=0.7, zorder=1))
    if place:
        axes.plot(*np.array(list(place.values())).T, "o", color="0.2", markersize=2.0, zorder=2)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_sets(planes: pd.DataFrame, counts: pd.DataFrame, grams: pd.DataFrame) -> Figure:
    """Planes and heat maps of the first seed, counts of all seeds."""
    one = planes[planes["seed"] == planes["seed"].iloc[0]]
    figure = plt.figure(figsize=(PAGE_WIDTH, 5.4))
    first, second, third = np.asarray(figure.subfigures(3, 1, height_ratios=[1.5, 1.5, 2.4])).tolist()
    first.suptitle("two sets of two, m = 2 (a colour is a set)", fontsize=8, x=0.02, ha="left")
    for axes, kind in zip(first.subplots(1, len(TITLES)), TITLES, strict=True):
        _set_plane(axes, one[(one["arrangement"] == "pairs") & (one["kind"] == kind)], TITLES[kind])
    second.suptitle("three correlated sets of two, m = 2, dense to sparse", fontsize=8, x=0.02, ha="left")
    three = one[(one["arrangement"] == "three_pairs") & (one["kind"] == "correlated")]
    densities = np.sort(three["density"].unique())[::-1]
    chosen = densities[np.unique(np.linspace(0, len(densities) - 1, SHOWN_SETS).round().astype(int))]
    for axes, density in zip(second.subplots(1, len(chosen)), chosen, strict=True):
        _set_plane(axes, three[three["density"] == density], f"s = {density:g}")
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


def _set_plane(axes: Axes, columns: pd.DataFrame, title: str) -> None:
    draw_plane(axes, columns.assign(feature=columns["feature"] // 2))
    axes.set_title(title, fontsize=7)


def draw_rarer(losses: pd.DataFrame, models: pd.DataFrame) -> Figure:
    """Top: best models of the first seed; bottom: best loss of each branch, all seeds."""
    one = models[models["seed"] == models["seed"].iloc[0]]
    ratios = np.sort(one["ratio"].unique())[::-1]
    chosen = ratios[np.unique(np.linspace(0, len(ratios) - 1, SHOWN_RATIOS).round().astype(int))]
    figure = plt.figure(figsize=(PAGE_WIDTH, 3.9))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.3, 2.6])).tolist()
    for axes, ratio in zip(top.subplots(1, len(chosen)), chosen, strict=True):
        draw_plane(axes, one[one["ratio"] == ratio])
        axes.set_title(f"{1 / ratio:.2g} times rarer" if ratio < 1 else "equally frequent", fontsize=7)
    axes = bottom.subplots()
    for branch, (marker, colour, label) in STYLES.items():
        rows = losses[losses["branch"] == branch]
        axes.plot(1 / rows["ratio"], rows["loss"], marker, color=colour, markersize=3.2, alpha=0.6, label=label)
    theory = losses.drop_duplicates("ratio").sort_values("ratio")
    axes.plot(1 / theory["ratio"], theory["digon_theory"], color="0.3", linewidth=0.9, label="digons, closed form")
    axes.axvline(PAPER, color="0.6", linestyle=":", linewidth=0.9)
    axes.annotate("paper: about 2.5", (1.015 * PAPER, 0.97), xycoords=("data", "axes fraction"), fontsize=6.5, va="top")
    axes.set(xscale="log", yscale="log", xlabel="how many times rarer the odd feature is", ylabel="loss")
    axes.set_xticks(*log_ticks([1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0]))
    axes.set_yticks(*log_ticks([0.003, 0.005, 0.01, 0.02]))
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper right")
    return figure


def draw_adversarial(frame: pd.DataFrame) -> Figure:
    """One mark per seed and density."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), sharey=True)
    for (name, (marker, label)), colour in zip(ATTACKS.items(), PALETTE, strict=False):
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


PLANS = {
    "uniform/uniform": Plan(draw_uniform, ("table.csv", "graphs.csv")),
    "sets/sets": Plan(draw_sets, ("table.csv", "collapse.csv", "products.csv")),
    "rarer_feature/rarer_feature": Plan(draw_rarer, ("table.csv", "columns.csv")),
    "adversarial/adversarial": Plan(draw_adversarial, ("table.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
