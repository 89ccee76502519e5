"""Draws D* and every D_i against 1 / density, with feature-geometry graphs of some models (section 4)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.superposition.drawing import log_ticks

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
