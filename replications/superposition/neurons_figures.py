"""Step: draws which hidden unit serves which features (sections 7, 8): stacked weights, absolute values, the motif."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, SEQUENTIAL, Picture, Plan, run_plans
from replications.superposition.drawing import log_ticks

TITLES = {"relu_hidden": "ReLU hidden units", "relu": "linear hidden\nunits (control)"}
SHOWN = 5
COLOURED = 20  # less important features have one colour


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
            weights = part.pivot(index="unit", columns="feature", values="weight").abs().to_numpy()
            stack_weights(axes, weights[weights.argmax(1).argsort(kind="stable")], colours)
            axes.set_title(f"s = {density:g}: {part['polysemantic'].iloc[0]} shared", fontsize=7)
            axes.set_xticks(range(1, len(weights) + 1))
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
        axes.bar(units, weights[served, feature], bottom=bottom[served], color=colour, width=0.75, linewidth=0)
        bottom += weights[:, feature]


def draw_absolute(frame: pd.DataFrame, motif: pd.DataFrame) -> Picture:
    """Top: stacked weights of the first seed's units. Bottom: loss and shared units of all seeds; the motif."""
    one = frame[frame["seed"] == frame["seed"].iloc[0]]
    densities = np.sort(frame["density"].unique())[::-1]
    chosen = densities[np.unique(np.linspace(0, len(densities) - 1, SHOWN).round().astype(int))]
    n_features, n_units = int(frame["feature"].max()) + 1, int(frame["unit"].max()) + 1
    figure = plt.figure(figsize=(PAGE_WIDTH, 4.6))
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[1.0, 1.2])).tolist()
    colours = plt.get_cmap(SEQUENTIAL)(np.minimum(np.arange(n_features) / COLOURED, 1.0))
    panels = top.subplots(1, len(chosen), sharey=True)
    for axes, density in zip(panels, chosen, strict=True):
        part = one[one["density"] == density]
        weights = np.zeros((n_units, n_features))
        weights[part["unit"], part["feature"]] = part["weight"].abs()
        stack_weights(axes, weights[weights.argmax(1).argsort(kind="stable")], colours)
        axes.set_title(f"s = {density:g}: {part['polysemantic'].iloc[0]} shared", fontsize=7)
        axes.set(xlabel="hidden unit", xticks=[])
    panels[0].set_ylabel("$|W_{ji}|$ / largest, stacked")
    mappable = ScalarMappable(Normalize(1, COLOURED), SEQUENTIAL)
    top.colorbar(mappable, ax=panels, label="feature", pad=0.01, fraction=0.03)
    left, right = bottom.subplots(1, 2, width_ratios=[1.0, 1.1])
    per_seed = frame.drop_duplicates(["seed", "density"])
    left.plot(per_seed["density"], per_seed["loss"], "o", color=PALETTE[0], markersize=3, alpha=0.6, label="ReLU")
    mean = per_seed.groupby("density")["loss"].mean()
    left.plot(mean.index, mean, color=PALETTE[0], linewidth=0.9)
    linear = per_seed.dropna(subset=["loss_linear"])
    left.plot(linear["density"], linear["loss_linear"], "s", color="0.5", markersize=3, label="linear (control)")
    left.axhline(1.0, color="0.3", linestyle="--", linewidth=0.8)
    left.annotate(
        "best monosemantic solution", (0.98, 1.04), xycoords=("axes fraction", "data"), fontsize=6.5, ha="right"
    )
    left.set(xscale="log", yscale="log", xlabel="density s (log scale, sparser to the right)")
    left.set_ylabel("loss over that of the\nbest monosemantic solution")
    left.set_xticks(
        *log_ticks(
            [
                float(density)
                for density in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
                if density >= 0.99 * mean.index.min()
            ]
        )
    )
    left.set_yticks(*log_ticks([0.1, 0.2, 0.5, 1.0, 2.0, 5.0]))
    left.minorticks_off()
    left.invert_xaxis()
    left.legend(frameon=False, title="hidden units", title_fontsize=7, loc="lower left")
    shown = motif[motif["served"]].assign(size=lambda rows: rows["into"].abs())
    excited, inhibited = shown[shown["outof"] > 0], shown[shown["outof"] < 0]
    for rows, colour, label in ((excited, PALETTE[0], "excites"), (inhibited, PALETTE[1], "inhibits")):
        right.plot(
            rows["size"], rows["outof"], "o", color=colour, markersize=2.5, alpha=0.5, markeredgewidth=0, label=label
        )
    reach = np.geomspace(shown["size"].quantile(0.02), shown["size"].max(), 50)
    right.plot(reach, 1 / reach, "--", color="0.3", linewidth=0.8, label="product 1")
    right.axhline(0.0, color="0.7", linewidth=0.6)
    right.set(xscale="log", ylim=(shown["outof"].quantile(0.005), shown["outof"].quantile(0.995)))
    of_motif = linear["density"].iloc[0]  # the density at which both are measured
    right.set(xlabel="|input weight| of a served feature", ylabel=f"its output weight, s = {of_motif:g}")
    right.set_xticks(*log_ticks([0.2, 0.5, 1.0, 2.0, 5.0]))
    right.minorticks_off()
    right.legend(frameon=False)
    return figure, pd.concat([frame, motif])


PLANS = {
    "neurons/neurons": Plan(draw_neurons, ("table.csv",)),
    "absolute/absolute": Plan(draw_absolute, ("table.csv", "motif.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
