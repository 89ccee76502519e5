"""Step: draws which of few features are stored, and how they share the hidden units (sections 1, 2 and 4)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE, SEQUENTIAL, Plan, dots, run_plans
from common.core.metrics import Metric
from replications.superposition.drawing import draw_plane, draw_shares

NAMES = {"relu": "ReLU", "linear": "linear\n(control)"}
GREY = "0.45"  # of controls
MANY_TITLES = {"linear": "linear (control)", "relu": "ReLU"}


def draw_planes(columns: pd.DataFrame) -> Figure:
    """Draws all activations in the table, the first seed in the planes and all seeds in the strip."""
    shown = columns[columns["seed"] == columns["seed"].iloc[0]]
    densities = sorted(columns["density"].unique(), reverse=True)
    activations = [name for name in NAMES if name in set(columns["activation"])]
    width, rows = PAGE_WIDTH, len(activations)
    figure = plt.figure(figsize=(width, 0.85 * rows + 2.3))
    parts = figure.subfigures(2, 1, height_ratios=[0.85 * rows, 2.2])
    top, bottom = np.asarray(parts).tolist()
    planes = top.subplots(rows, len(densities), squeeze=False)
    for line, activation in zip(planes, activations, strict=True):
        for axes, density in zip(line, densities, strict=True):
            draw_plane(axes, shown[(shown["activation"] == activation) & (shown["density"] == density)])
        line[0].set_ylabel(NAMES[activation])
    for axes, density in zip(planes[0], densities, strict=True):
        axes.set_title(f"s = {density:.2g}", fontsize=7)
    draw_shares(bottom.subplots(), columns[columns["activation"] == "relu"])
    return figure


def draw_many(frame: pd.DataFrame, grams: pd.DataFrame, metrics: dict[str, Metric]) -> Figure:
    """W^T W and bars of ||W_i||, coloured by superposition, of the first seed; the first density of the linear model,
    all of the ReLU model. Below: the loss of all seeds at the sparsest density beside its controls."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    densities = sorted(one["density"].unique(), reverse=True)
    panels = [("linear", densities[0]), *(("relu", density) for density in densities)]
    figure = plt.figure(figsize=(PAGE_WIDTH, 4.6))
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[3.3, 1.3])).tolist()
    top, axes = upper.subplots(2, len(panels), height_ratios=[1.0, 1.2])
    scale = Normalize(0.0, 1.0)
    colours = plt.get_cmap(SEQUENTIAL)
    for above, place, (activation, density) in zip(top, axes, panels, strict=True):
        gram = grams[(grams["activation"] == activation) & (grams["density"] == density)]
        square = gram.pivot(index="feature", columns="other", values="product").to_numpy()
        bars = one[(one["activation"] == activation) & (one["density"] == density)].sort_values("feature")
        gap = np.full((len(square), 1), np.nan)
        joined = np.hstack([square, gap, bars[["bias"]].to_numpy().repeat(2, axis=1)])
        image = above.imshow(joined, cmap=DIVERGING, vmin=-1, vmax=1, rasterized=True)
        above.set_xticks([len(square) / 2 - 0.5, len(square) + 1.5], ["$W^T W$", "$b$"])
        above.tick_params(axis="x", length=0)
        above.set(yticks=[])
        for spine in above.spines.values():
            spine.set_visible(False)
        shade = colours(scale(bars["superposition"].to_numpy().clip(0.0, 1.0)))
        place.barh(bars["feature"] + 1, bars["norm"], color=shade, height=0.8)
        above.set_title(f"{MANY_TITLES[activation]}, s = {density:g}", fontsize=7)
        place.set(xlim=(0.0, 1.25), xlabel=r"$\|W_i\|$", yticks=[])
        place.invert_yaxis()
    axes[0].set_ylabel("feature, most important on top")
    axes[0].set_yticks(np.arange(1, one["feature"].max() + 2, 3 if one["feature"].max() > 10 else 1))
    top[0].set_ylabel("feature")
    upper.colorbar(image, ax=top, label="value", pad=0.01, fraction=0.03)
    label = "superposition\n(1 and more alike)"
    upper.colorbar(ScalarMappable(scale, SEQUENTIAL), ax=axes, label=label, pad=0.01, fraction=0.03)
    draw_losses(lower.subplots(), metrics, densities)
    return figure


def draw_losses(axes: Axes, metrics: dict[str, Metric], densities: list[float]) -> None:
    """Loss over that of the best linear model: the ReLU model at the sparsest density, and what stands against it."""
    found, by_hand = metrics["sparsest_loss"], metrics["antipodal_pairs_loss"]
    rows = {
        f"ReLU, s = {densities[-1]:g}": (found, PALETTE[0]),
        "antipodal pairs, by hand": (by_hand, PALETTE[4]),
        "random directions, lengths and biases trained": (found.control("random_directions"), GREY),
        f"linear, s = {densities[-1]:g}": (found.control("linear"), GREY),
        f"ReLU, s = {densities[0]:g}": (found.control("dense"), GREY),
    }
    dots(axes, rows)
    axes.margins(y=0.12)
    axes.axvline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set(xlabel="loss / loss of the best linear model", xlim=(0, None))


PLANS = {
    "intro/intro": Plan(draw_planes, ("table.csv",)),
    "polygons/polygons": Plan(draw_planes, ("table.csv",)),
    "many_features/many_features": Plan(draw_many, ("table.csv", "products.csv", "metrics.json")),
}


if __name__ == "__main__":
    run_plans(PLANS)
