"""Step: draws uniform superposition and sets (section 4), and attacks (section 6)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from replications.superposition.drawing import draw_plane, log_ticks

GUIDES = {
    1.0: "1: own dimension",
    3 / 4: "3/4: tetrahedron",
    2 / 3: "2/3: triangle",
    1 / 2: "1/2: digon",
    2 / 5: "2/5: pentagon",
    3 / 8: "3/8: square antiprism",
}
SHIFTS = {3 / 8: -0.018, 2 / 5: 0.008}  # of labels that would overlap
HALF = 0.5
GRAPHS = (0.67, 0.59, 0.4, 0.24, 0.2)
GOLDEN = np.pi * (3 - np.sqrt(5))
APART = 0.3  # gap between rings
TITLES = {"correlated": "correlated", "exclusive": "exclusive", "independent": "independent (control)"}
SHOWN_SETS = 4
PAPER = 3.0
ATTACKS = {
    "vulnerability": ("o", "worst feature direction", PALETTE[0]),
    "row_space": ("^", "worst random direction that the model reads", PALETTE[4]),
    "random": ("s", "worst random direction", "0.55"),
}


def draw_uniform(frame: pd.DataFrame) -> Figure:
    """Left: D* of all seeds. Right: D_i of every stored feature, all seeds and densities."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.4), width_ratios=[1.0, 1.35], sharey=True)
    models = frame[frame["feature"] == 0]
    for _, one in models.groupby("seed"):
        left.plot(
            1 / one["density"], one["dims_per_feature"], "o-", color=PALETTE[0], markersize=2, linewidth=0.5, alpha=0.6
        )
    left.axhline(1.0, color="0.5", linewidth=1.0)
    left.annotate("linear model, or any projection (control)", (0.98, 1.015), xycoords=("axes fraction", "data"),
                  fontsize=6.5, color="0.35", ha="right")  # fmt: skip
    left.set(ylabel="dimensions per feature", title=r"$D^* = m / \|W\|_F^2$, a line per seed")
    stored = frame[frame["norm"] > HALF]
    shift = np.random.default_rng(0).uniform(0.975, 1.025, len(stored))
    right.plot(shift / stored["density"], stored["dimensionality"], ".", color=PALETTE[0], markersize=2, alpha=0.35)
    right.set_title("$D_i$ of every stored feature")
    for place, text in GUIDES.items():
        for axes in (left, right):
            axes.axhline(place, color="0.8", linewidth=0.6, zorder=0)
        at = place + SHIFTS.get(place, 0.0)
        right.annotate(text, (1.01, at), xycoords=("axes fraction", "data"), fontsize=6.5, va="center", color="0.35")
    for axes in (left, right):
        axes.set(xscale="log", ylim=(0.0, 1.08), xlabel="1 / (1 - S), sparser to the right")
        axes.set_xticks(*log_ticks([1.0, 2.0, 5.0, 10.0, 20.0]))
        axes.minorticks_off()
    return figure


def draw_graphs(links: pd.DataFrame, frame: pd.DataFrame) -> Picture:
    """Stored features of the first seed as graphs, one colour per share of a dimension."""
    densities = np.sort(frame["density"].unique())[::-1]
    chosen = list(dict.fromkeys(densities[np.abs(np.log(densities / wanted)).argmin()] for wanted in GRAPHS))
    one = frame[(frame["seed"] == frame["seed"].iloc[0]) & (frame["norm"] > HALF)]
    figure, panels = plt.subplots(1, len(chosen), figsize=(PAGE_WIDTH, 1.9))
    for axes, density in zip(panels, chosen, strict=True):
        shares = one[one["density"] == density].set_index("feature")["dimensionality"].to_dict()
        part = links[links["density"] == density]
        _graph(axes, shares, [(int(i), int(j), x) for i, j, x in part[["feature", "other", "product"]].to_numpy()])
        axes.set_title(f"1 / (1 - S) = {1 / density:.2g}\n{len(shares)} features", fontsize=7)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=_colour(level), label=text) for level, text in GUIDES.items()
    ]
    marks.append(Line2D([], [], marker="o", linestyle="", color="0.6", label="none of these"))
    figure.legend(
        handles=marks,
        loc="outside lower center",
        ncols=len(marks),
        frameon=False,
        fontsize=6,
        handletextpad=0.1,
        columnspacing=0.8,
    )
    return figure, links


def _colour(share: float) -> str:
    """Of the regular arrangement whose share is within 0.02, or grey."""
    level = min(GUIDES, key=lambda one: abs(one - share))
    return PALETTE[list(GUIDES).index(level)] if abs(level - share) <= 0.02 else "0.6"


def _graph(axes: Axes, shares: dict[int, float], links: list[tuple[int, int, float]]) -> None:
    """Connected features as rings, largest ring in the middle; an edge is a large |W_i . W_j|."""
    group = {i: {i} for i in shares}
    edges = [(i, j, x) for i, j, x in links if i != j and i in shares and j in shares]
    for i, j, _ in edges:
        if group[i] is not group[j]:
            group[i] |= group[j]
            for k in group[j]:
                group[k] = group[i]
    rings = sorted({id(one): sorted(one) for one in group.values()}.values(), key=len, reverse=True)
    place: dict[int, np.ndarray] = {}
    circles: list[tuple[np.ndarray, float]] = []
    for k, ring in enumerate(rings):
        size = 0.17 * len(ring) / 2 if len(ring) > 2 else 0.2
        towards, far = np.array([np.cos(k * GOLDEN), np.sin(k * GOLDEN)]), 0.0
        while any(np.hypot(*(far * towards - at)) < APART + size + r for at, r in circles):
            far += APART / 5
        circles.append((far * towards, size))
        for at, i in enumerate(ring):
            turn = 2 * np.pi * at / len(ring)
            place[i] = far * towards + size * (len(ring) > 1) * np.array([np.cos(turn), np.sin(turn)])
    lines = [[place[i].tolist(), place[j].tolist()] for i, j, _ in edges]
    strong = [min(1.0, abs(x)) for *_, x in edges]
    axes.add_collection(
        LineCollection(
            lines, colors=[(0.3, 0.3, 0.3, 0.8 * x) for x in strong], linewidths=[0.9 * x for x in strong], zorder=1
        )
    )
    for i, spot in place.items():
        axes.plot(*spot, "o", color=_colour(shares[i]), markersize=2.4, zorder=2)
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


def draw_adversarial(frame: pd.DataFrame) -> Figure:
    """One mark per seed and density."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), sharey=True)
    for name, (marker, label, colour) in ATTACKS.items():
        left.plot(1 / frame["density"], frame[name], marker, color=colour, markersize=2.8, alpha=0.6, label=label)
        right.plot(1 / frame["dims_per_feature"], frame[name], marker, color=colour, markersize=2.8, alpha=0.6)
    for axes in (left, right):
        axes.axhline(PAPER, color="0.6", linestyle=":", linewidth=0.9)
    left.annotate(
        "paper: more than 3",
        (0.98, 0.92 * PAPER),
        xycoords=("axes fraction", "data"),
        fontsize=6.5,
        ha="right",
        va="top",
    )
    left.set(xlabel="1 / (1 - S), sparser to the right", xscale="log")
    left.set_ylabel("excess loss under attack, over that\nof the model trained at s = 1")
    right.set(xlabel="features per dimension, 1 / D*")
    left.set_xticks(*log_ticks([1.0, 2.0, 5.0, 10.0, 20.0]))
    left.minorticks_off()
    left.legend(frameon=False, loc="upper left")
    return figure


PLANS = {
    "uniform/uniform": Plan(draw_uniform, ("table.csv",)),
    "uniform/graphs": Plan(draw_graphs, ("graphs.csv", "table.csv")),
    "sets/sets": Plan(draw_sets, ("table.csv", "collapse.csv", "products.csv")),
    "adversarial/adversarial": Plan(draw_adversarial, ("table.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
