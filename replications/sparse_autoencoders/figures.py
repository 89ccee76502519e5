"""Step: draws all figures of the planted dictionaries, or those of a language model, from the tables of their parts.

Here are those of the planted worlds and of SynthSAEBench; `language_figures` has the others.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans
from replications.sparse_autoencoders import language_figures

FOUND = 0.8  # cosine, as in the step `planted`
WORLDS = {"easy": ("easy", PALETTE[2]), "equal": ("equally frequent", PALETTE[1]),
          "hard_longer": ("log-uniform, longer", PALETTE[3]), "hard": ("log-uniform", PALETTE[0])}  # fmt: skip
NAMES = {"l1": "ReLU + L1", "topk": "TopK", "batch_topk": "BatchTopK", "jumprelu": "JumpReLU",
         "matryoshka": "Matryoshka", "matching_pursuit": "matching pursuit"}  # fmt: skip
COLOURS = {name: PALETTE[at] for name, at in zip(NAMES, (3, 6, 0, 4, 2, 1), strict=True)}
NULLS = {"untrained": ("untrained rows, largest", "x"), "untrained_pursuit": ("untrained rows, pursuit", "+"),
         "data_rows": ("samples, pursuit", "1"), "kmeans_rows": ("clusters, pursuit", "2")}  # fmt: skip
UNTRAINED = {kind: NULLS[other] for kind, other in (("untrained", "untrained"), ("clusters", "kmeans_rows"))}
PAPER = {  # explained, F1, MCC of SynthSAEBench-16k at L0 25
    "l1": (0.765, 0.556, 0.604), "batch_topk": (0.792, 0.732, 0.757), "jumprelu": (0.795, 0.732, 0.753),
    "matryoshka": (0.779, 0.879, 0.793), "matching_pursuit": (0.835, 0.446, 0.693),
}  # fmt: skip
RATES = {"alone": ("root without a child", "o", "0.45"), "recall": ("root with a child", "D", "0.1")}


def planted(features: pd.DataFrame, kinds: pd.DataFrame) -> Figure:
    """Left: variance explained and features found, trained and untrained. Right: best cosine by frequency."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.8), width_ratios=[1, 1.25])
    for world, (label, colour) in WORLDS.items():
        own = kinds[(kinds["world"] == world) & (kinds["kind"] == "trained")]
        if own.empty:
            continue
        left.plot(own["explained"], own["recovered"], "o", color=colour, markersize=5, alpha=0.8, label=label)
        if own["k"].nunique() > 1:
            for k, at in own.groupby("k")[["explained", "recovered"]].mean().iterrows():
                left.annotate(f"k = {k:.0f}", at, (6, -2), textcoords="offset points", fontsize=6, color=colour)
        for kind, (_, marker) in UNTRAINED.items():
            start = kinds[(kinds["world"] == world) & (kinds["kind"] == kind)]
            left.plot(start["explained"], start["recovered"], marker, color=colour, markersize=5)
    for label, marker in UNTRAINED.values():
        left.plot([], [], marker, color="0.4", label=label)
    for place, name in (((0.71, 297 / 3200), "log-uniform"), ((0.67, 3 / 3200), "equal")):
        left.plot(*place, "*", color="0.35", markersize=8, label="paper" if name == "equal" else None, zorder=3)
    left.set(xlabel="variance explained", ylabel=f"features found (cosine > {FOUND})", xlim=(0, 1), ylim=(-0.03, 1.03))
    left.legend(frameon=False, loc="upper left", fontsize=6.5)
    own = features[features["world"] == "hard"]
    own = own[own["frequency"] > 0]
    right.plot(own["frequency"], own["cosine"], ".", color=PALETTE[0], markersize=2, alpha=0.25, rasterized=True)
    for world, (label, colour) in (("hard", WORLDS["hard"]), ("equal", WORLDS["equal"])):
        curve(right, features[features["world"] == world], "cosine", colour, label)
    curve(right, own, "random_cosine", "0.5", "log-uniform, untrained")
    right.axhline(FOUND, color="0.7", linewidth=0.8, zorder=0)
    right.set(
        xscale="log", xlabel="frequency of the true feature", ylabel="largest cosine with a row", ylim=(0.2, 1.02)
    )
    right.legend(frameon=False, loc="upper left", fontsize=6.5)
    return figure


def curve(axes: Axes, rows: pd.DataFrame, key: str, colour: str, label: str) -> None:
    """Mean of each seed over frequencies, as a line, or as a mark where all features are equally frequent."""
    rows = rows[rows["frequency"] > 0]
    spread = np.log10(rows["frequency"].quantile(0.99) / rows["frequency"].quantile(0.01))
    edges = np.quantile(rows["frequency"], np.linspace(0, 1, 25 if spread > 1 else 2))
    for place, (_, own) in enumerate(rows.groupby("seed")):
        binned = own.groupby(np.digitize(own["frequency"], edges[1:-1]))[["frequency", key]].mean()
        style = "-" if spread > 1 else "D"
        axes.plot(binned["frequency"], binned[key], style, color=colour, linewidth=0.9, markersize=4,
                  label=None if place else label)  # fmt: skip


def architectures(rows: pd.DataFrame) -> Figure:
    """Variance explained against F1 and MCC: seeds, their mean, and the published values as stars."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.9), sharex=True)
    for axes, key, place, label in zip(panels, ("f1", "mcc"), (1, 2), ("F1 as detectors", "MCC"), strict=True):
        for name, title in NAMES.items():
            own, colour = rows[rows["name"] == name], COLOURS[name]
            axes.plot(own["explained"].mean(), own[key].mean(), "o", color=colour, markersize=7, mfc="white", mew=1.5,
                      label=title if axes is panels[0] else None)  # fmt: skip
            axes.plot(own["explained"], own[key], ".", color=colour, markersize=2.5)
            if name in PAPER:
                axes.plot(PAPER[name][0], PAPER[name][place], "*", color=colour, markersize=9)
        for name, (title, marker) in NULLS.items():
            start = rows[rows["name"] == name]
            axes.plot(start["explained"], start[key], marker, color="0.5", label=title if axes is panels[0] else None)
        axes.set(xlabel="variance explained", ylabel=label, ylim=(0, 1))
    panels[0].plot([], [], "*", color="0.4", markersize=9, label="published (16k features)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def absorption(rows: pd.DataFrame) -> Figure:
    """Left: how often latents of roots fire, seeds and their mean. Right: what they miss over variance explained."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.9), width_ratios=[1.5, 1])
    places = {name: len(NAMES) - 1 - place for place, name in enumerate(NAMES)}
    own = rows[rows["name"].isin(NAMES)]
    for offset, (key, (label, marker, colour)) in zip((0.14, -0.14), RATES.items(), strict=True):
        left.plot(own[key], own["name"].map(places) + offset, marker, color=colour, markersize=3, alpha=0.45)
        mean = own.groupby("name")[key].mean()
        height = np.array([places[str(name)] for name in mean.index]) + offset
        left.plot(mean, height, marker, color=colour, markersize=7, mfc="white", mew=1.4, label=label)
    left.set_yticks(list(places.values()), [NAMES[name] for name in places])
    for tick, name in zip(left.get_yticklabels(), NAMES, strict=True):
        tick.set_color(COLOURS[name])  # the key of the right panel
    left.set(xlabel="share of samples on which the root's latent fires", xlim=(-0.02, 1.03))
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for name in NAMES:
        one = rows[rows["name"] == name]
        right.plot(one["explained"], one["missed"], "o", color=COLOURS[name], markersize=4.5)
    right.plot(own["explained"], own["shuffled"], "x", color="0.6", markersize=4, label="children shuffled")
    right.set(xlabel="variance explained", ylabel="missed because of a child")
    right.legend(frameon=False, loc="upper left")
    return figure


PLANS = {
    "planted/planted": Plan(planted, ("features.csv", "kinds.csv")),
    "synth_bench/architectures": Plan(architectures, ("architectures.csv",)),
    "synth_bench/absorption": Plan(absorption, ("architectures.csv",)),
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
