"""Step: draws all figures of the planted dictionaries, or those of a language model, from the tables of their parts.

Here are the figures of the planted dictionaries and trees; `language_figures` has the others.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans
from common.core.metrics import Metric
from replications.sparse_autoencoders import language_figures

WORLD_STYLES = {"easy": ("easy world", PALETTE[0]), "hard": ("hard world", PALETTE[1])}
REVIVAL_STYLES = {"with_auxk": ("with AuxK", PALETTE[2]), "without_auxk": ("without AuxK", PALETTE[4])}
ARCHITECTURE_NAMES = {"relu": "ReLU + L1", "topk": "TopK", "batch_topk": "BatchTopK", "jumprelu": "JumpReLU",
         "matryoshka": "Matryoshka"}  # fmt: skip
MARKS = {
    "alone": ("parent without a child", "o", "0.45"),
    "recall": ("parent with a child", "D", "0.1"),
    "shuffled": ("shuffled samples", "s", "0.65"),
}
ARCHITECTURE_COLOURS = {name: PALETTE[at] for name, at in zip(ARCHITECTURE_NAMES, (3, 1, 0, 4, 2), strict=True)}


def planted(features: pd.DataFrame, lines: pd.DataFrame, numbers: dict[str, Metric]) -> Figure:
    """Left: best cosine of each true feature. Middle: fvu over training. Right: dead latents."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.7))
    for world, (label, colour) in WORLD_STYLES.items():
        own = features[features["world"] == world]
        explained = numbers[f"{world}_explained"].value
        left.plot(*cumulated(own["cosine"]), color=colour, label=f"{label}, explains {explained:.2f}")
        left.plot(*cumulated(own["random_cosine"]), color=colour, linestyle=":", label=f"{label}, untrained")
        curve(middle, lines[lines["experiment"] == world], "fvu", label, colour)
    left.set(
        xlabel="largest cosine with a decoder row", ylabel="share of true features", xlim=(0, 1.02), ylim=(0, 1.02)
    )
    left.axvline(0.9, color="0.7", linewidth=0.8, zorder=0)
    middle.set(xlabel="share of training done", ylabel="variance unexplained", yscale="log")
    middle.set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    middle.minorticks_off()
    middle.set_ylim(0.1, 8)
    for name, (label, colour) in REVIVAL_STYLES.items():
        curve(right, lines[lines["experiment"] == name], "dead", label, colour)
    right.set(xlabel="share of training done", ylabel="share of latents that are dead", ylim=(0, None))
    for axes, place in ((middle, "upper right"), (right, "upper left")):
        axes.legend(frameon=False, loc=place)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def cumulated(values: "pd.Series[float]") -> tuple[np.ndarray, np.ndarray]:
    """The empirical distribution function."""
    ordered = np.sort(values.to_numpy())
    return ordered, np.arange(1, len(ordered) + 1) / len(ordered)


def curve(axes: Axes, lines: pd.DataFrame, quantity: str, label: str, colour: str) -> None:
    """Mean over seeds, with the range of seeds."""
    by_progress = lines.groupby("progress")[quantity]
    x = by_progress.mean().index.to_numpy()
    axes.plot(x, by_progress.mean().to_numpy(), color=colour, label=label)
    axes.fill_between(x, by_progress.min().to_numpy(), by_progress.max().to_numpy(), color=colour, alpha=0.2, lw=0)


def absorption(rows: pd.DataFrame) -> Figure:
    """Left: firing rates of parents' latents, seeds and their mean. Right: recall over variance explained."""
    seeds = rows.groupby(["architecture", "seed"], sort=False).mean(numeric_only=True).reset_index()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1.5, 1])
    places = {name: len(ARCHITECTURE_NAMES) - 1 - place for place, name in enumerate(ARCHITECTURE_NAMES)}
    for offset, (key, (label, marker, colour)) in zip((0.18, 0.0, -0.18), MARKS.items(), strict=True):
        at = seeds["architecture"].map(places) + offset
        left.plot(seeds[key], at, marker, color=colour, markersize=3, alpha=0.45)
        mean = seeds.groupby("architecture", sort=False)[key].mean()
        height = np.array([places[str(name)] for name in mean.index]) + offset
        left.plot(mean, height, marker, color=colour, markersize=7, mfc="white", mew=1.4, label=label)
    left.set_yticks(list(places.values()), [ARCHITECTURE_NAMES[name] for name in places])
    left.set(xlabel="share of samples on which the parent's latent fires", xlim=(-0.02, 1.03))
    for name, label in ARCHITECTURE_NAMES.items():
        own = seeds[seeds["architecture"] == name]
        right.plot(own["explained"], own["recall"], "o", color=ARCHITECTURE_COLOURS[name], markersize=5, label=label)
    right.set(xlabel="variance explained", ylabel="share fired with a child", ylim=(0, 1.03))
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower center", ncols=4, frameon=False)
    return figure


PLANS = {
    "planted/planted": Plan(planted, ("features.csv", "traces.csv", "metrics.json")),
    "absorption/absorption": Plan(absorption, ("parents.csv",)),
    "language/frontier": Plan(language_figures.frontier, ("saes.csv",)),
    "language/training": Plan(language_figures.training, ("traces.csv",)),
    "errors/errors": Plan(language_figures.errors, ("saes.csv",)),
    "latents/latents": Plan(language_figures.latents, ("latents.csv",)),
    "latents/lengths": Plan(language_figures.lengths, ("lengths.csv",)),
    "latents/examples": Plan(language_figures.examples, ("examples.csv",)),
    "named_features/patterns": Plan(language_figures.patterns, ("patterns.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
