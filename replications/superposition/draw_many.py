"""Draws W^T W, norm and superposition of every feature, linear against ReLU, by density (section 2)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.core.figures import DIVERGING, PAGE_WIDTH, SEQUENTIAL

TITLES = {"linear": "linear (control)", "relu": "ReLU"}


def draw_many(frame: pd.DataFrame, grams: pd.DataFrame) -> Figure:
    """W^T W and bars of ||W_i||, coloured by superposition, of the first seed; the first density of the linear model,
    all of the ReLU model."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    densities = sorted(one["density"].unique(), reverse=True)
    panels = [("linear", densities[0]), *(("relu", density) for density in densities)]
    figure, (top, axes) = plt.subplots(2, len(panels), figsize=(PAGE_WIDTH, 4.0), height_ratios=[1.0, 1.6])
    scale = Normalize(0.0, 1.0)
    colours = plt.get_cmap(SEQUENTIAL)
    for above, place, (activation, density) in zip(top, axes, panels, strict=True):
        gram = grams[(grams["activation"] == activation) & (grams["density"] == density)]
        square = gram.pivot(index="feature", columns="other", values="product")
        image = above.imshow(square, cmap=DIVERGING, vmin=-1, vmax=1, rasterized=True)
        above.set(xticks=[], yticks=[])
        bars = one[(one["activation"] == activation) & (one["density"] == density)].sort_values("feature")
        shade = colours(scale(bars["superposition"].to_numpy().clip(0.0, 1.0)))
        place.barh(bars["feature"] + 1, bars["norm"], color=shade, height=0.8)
        above.set_title(f"{TITLES[activation]}, s = {density:g}", fontsize=7)
        place.set(xlim=(0.0, 1.25), xlabel=r"$\|W_i\|$", yticks=[])
        place.invert_yaxis()
    axes[0].set_ylabel("feature, most important on top")
    axes[0].set_yticks(np.arange(1, one["feature"].max() + 2, 3 if one["feature"].max() > 10 else 1))
    top[0].set_ylabel("feature")
    figure.colorbar(image, ax=top, label=r"$W^T W$", pad=0.01, fraction=0.03)
    label = "superposition (1 and more alike)"
    figure.colorbar(ScalarMappable(scale, SEQUENTIAL), ax=axes, label=label, pad=0.01, fraction=0.03)
    return figure
