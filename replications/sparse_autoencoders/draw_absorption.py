"""Draws how often a parent's latent fires with and without a child, and against variance explained."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

NAMES = {"relu": "ReLU + L1", "topk": "TopK", "batch_topk": "BatchTopK", "jumprelu": "JumpReLU",
         "matryoshka": "Matryoshka"}  # fmt: skip
MARKS = {
    "alone": ("parent without a child", "o", "0.45"),
    "recall": ("parent with a child", "D", "0.1"),
    "shuffled": ("shuffled samples", "s", "0.65"),
}
COLOURS = dict(zip(NAMES, (PALETTE[3], PALETTE[1], PALETTE[0], PALETTE[4], PALETTE[2]), strict=True))


def draw_absorption(rows: pd.DataFrame) -> Figure:
    """Left: firing rates of parents' latents, seeds and their mean. Right: recall over variance explained."""
    seeds = rows.groupby(["architecture", "seed"], sort=False).mean(numeric_only=True).reset_index()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1.5, 1])
    places = {name: len(NAMES) - 1 - place for place, name in enumerate(NAMES)}
    for offset, (key, (label, marker, colour)) in zip((0.18, 0.0, -0.18), MARKS.items(), strict=True):
        at = seeds["architecture"].map(places) + offset
        left.plot(seeds[key], at, marker, color=colour, markersize=3, alpha=0.45)
        mean = seeds.groupby("architecture", sort=False)[key].mean()
        height = np.array([places[str(name)] for name in mean.index]) + offset
        left.plot(mean, height, marker, color=colour, markersize=7, mfc="white", mew=1.4, label=label)
    left.set_yticks(list(places.values()), [NAMES[name] for name in places])
    left.set(xlabel="share of samples on which the parent's latent fires", xlim=(-0.02, 1.03))
    for name, label in NAMES.items():
        own = seeds[seeds["architecture"] == name]
        right.plot(own["explained"], own["recall"], "o", color=COLOURS[name], markersize=5, label=label)
    right.set(xlabel="variance explained", ylabel="share fired with a child", ylim=(0, 1.03))
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower center", ncols=4, frameon=False)
    return figure
