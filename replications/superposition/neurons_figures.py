"""Step: draws which hidden unit serves which features (section 8): stacked weights, absolute values, the motif."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from common.core.figures import PAGE_WIDTH, PALETTE, SEQUENTIAL, Picture, Plan, run_plans
from replications.superposition.drawing import log_ticks

TITLES = {"relu_hidden": "ReLU hidden units", "relu": "linear hidden\nunits (control)"}
SHOWN = 5
SHOWN_ABSOLUTE = 4
COLOURED = 30  # less important features have one colour


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


def draw_absolute(frame: pd.DataFrame, small: pd.DataFrame) -> Picture:
    """Top: stacked weights of the first seed's units at four densities. Middle: all seeds. Bottom: small models."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    densities = np.sort(frame["density"].unique())[::-1]
    chosen = [*densities[: SHOWN_ABSOLUTE - 1].tolist(), densities[-1]]
    n_features, n_units = int(frame["feature"].max()) + 1, int(frame["unit"].max()) + 1
    figure = plt.figure(figsize=(PAGE_WIDTH, 7.0))
    top, middle, bottom = np.asarray(figure.subfigures(3, 1, height_ratios=[1.1, 1.0, 1.2])).tolist()
    colours = plt.get_cmap(SEQUENTIAL)(1.0 - np.minimum(np.arange(n_features) / COLOURED, 1.0))
    for axes, density in zip(top.subplots(1, len(chosen), sharey=True), chosen, strict=False):
        part = one[one["density"] == density]
        weights = np.zeros((n_units, n_features))
        weights[part["unit"], part["feature"]] = part["weight"].abs()
        order = np.lexsort((weights.argmax(1), weights.sum(1).round(1)))
        stack_weights(axes, weights[order], colours)
        axes.set(title=f"s = {density:g}", xlabel="hidden unit, sorted", xticks=[])
        if density == chosen[0]:
            axes.set_ylabel("$|W_{ji}|$ / largest, stacked")
    per_seed = frame.drop_duplicates(["seed", "density"])
    left, right = middle.subplots(1, 2)
    sns.lineplot(per_seed, x="density", y="polysemantic", ax=left, color=PALETTE[0], marker="o", errorbar=("pi", 100))
    left.set(ylabel=f"polysemantic units of {n_units}", ylim=(-1, n_units + 1))
    style = {"color": PALETTE[0], "marker": "o", "errorbar": ("pi", 100), "label": "ReLU"}
    sns.lineplot(per_seed, x="density", y="error", ax=right, **style)
    linear = per_seed.dropna(subset=["error_linear"])
    right.plot(linear["density"], linear["error_linear"], "s", color=PALETTE[1], label="linear (control)")
    right.set(ylabel="loss / loss of the answer 0", ylim=(0, 1.05))
    right.legend(frameon=False, title="hidden units", title_fontsize=7, loc="upper left")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="density s (log scale, sparser to the right)")
        axes.set_xticks(*log_ticks([1.0, 0.1, 0.01, 0.001]))
        axes.minorticks_off()
        axes.invert_xaxis()
    draw_motif(bottom.subplots(1, 2), small)
    return figure, pd.concat([frame, small])


def draw_motif(pair: np.ndarray, small: pd.DataFrame) -> None:
    """Left: weights of the features that one unit excites, joined. Right: interference between two features."""
    left, right = pair
    weights, crossing = small[small["what"] == "weight"], small[small["what"] == "interference"]
    for _, unit in weights.groupby(["seed", "unit"]):
        one = unit.sort_values("horizontal")
        left.plot(one["horizontal"], one["vertical"], "o-", color=PALETTE[0], linewidth=0.6, markersize=3, alpha=0.7)
    ends = np.array([0.2, 5.0])
    left.plot(ends, 1 / ends, "--", color="0.4", linewidth=0.8, label="product equal for all features")
    left.set(xscale="log", yscale="log", xlabel="input weight / mean of the unit", ylabel="output weight / mean")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    left.legend(frameon=False, loc="lower left")
    right.plot(crossing["horizontal"], crossing["vertical"], "o", color=PALETTE[1], markersize=3, alpha=0.6)
    reach = float(crossing[["horizontal", "vertical"]].max().max()) * 1.05
    right.plot([0, reach], [0, reach], "--", color="0.4", linewidth=0.8, label="inhibited as much as excited")
    right.set(xlabel="excitation by another feature", ylabel="inhibition by that feature")
    right.legend(frameon=False, loc="lower right")


PLANS = {
    "neurons/neurons": Plan(draw_neurons, ("table.csv",)),
    "absolute/absolute": Plan(draw_absolute, ("table.csv", "motif.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
