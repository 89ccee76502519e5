"""Draws what every hidden unit serves, density by density, as stacked weights (section 8)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, SEQUENTIAL

TITLES = {"relu_hidden": "ReLU hidden units", "relu": "linear hidden\nunits (control)"}
SHOWN = 5


def draw_neurons(frame: pd.DataFrame) -> Figure:
    """Best model of the first seed per density: a bar per unit, a piece per feature."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    densities = np.sort(one["density"].unique())[::-1]
    chosen = densities[np.unique(np.linspace(0, len(densities) - 1, SHOWN).round().astype(int))]
    figure, grid = plt.subplots(
        len(TITLES), len(chosen), figsize=(PAGE_WIDTH, 3.6), sharex=True, sharey=True, squeeze=False
    )
    n_features = int(one["feature"].max()) + 1
    colours = plt.get_cmap(SEQUENTIAL)(np.linspace(0.0, 1.0, n_features))
    for line, (activation, title) in zip(grid, TITLES.items(), strict=True):
        for axes, density in zip(line, chosen, strict=True):
            part = one[(one["activation"] == activation) & (one["density"] == density)]
            stack_weights(axes, part.pivot(index="unit", columns="feature", values="weight").abs().to_numpy(), colours)
            mean = frame[(frame["activation"] == activation) & (frame["density"] == density)]["polysemantic"].mean()
            axes.set_title(f"s = {density:g}, {mean:.1f} poly.", fontsize=7)
        line[0].set_ylabel(f"{title}\n$|W_{{ji}}|$, stacked")
    for axes in grid[-1]:
        axes.set_xlabel("hidden unit")
    mappable = ScalarMappable(Normalize(1, n_features), SEQUENTIAL)
    figure.colorbar(mappable, ax=grid, label="feature, most important first", pad=0.01, fraction=0.03)
    return figure


def stack_weights(axes: Axes, weights: np.ndarray, colours: np.ndarray) -> None:
    """A bar per row of `weights` [unit feature], a piece per feature."""
    bottom = np.zeros(len(weights))
    for feature, colour in enumerate(colours):
        served = weights[:, feature] > 0
        units = np.flatnonzero(served) + 1
        axes.bar(units, weights[served, feature], bottom=bottom[served], color=colour, width=0.75, linewidth=0.2)
        bottom += weights[:, feature]
    axes.set_xticks(range(1, len(weights) + 1))
