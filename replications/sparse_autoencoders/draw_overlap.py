"""Draws the cosines of matched latents of different seeds, and how sharing goes with the firing rate."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.plotting import PAGE_WIDTH, PALETTE
from replications.sparse_autoencoders.draw_language import plain_ticks

THRESHOLD, BINS = 0.7, 10


def draw_overlap(rows: pd.DataFrame) -> Figure:
    """Left: distribution of cosines, with that of random directions. Right: by tenth of the firing rate."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6))
    edges = np.linspace(0, 1, 41)
    for key, label, colour in (
        ("cosine", "other seed", PALETTE[0]),
        ("random_cosine", "random directions, same covariance", "0.55"),
    ):
        left.hist(rows[key], edges, density=True, histtype="stepfilled", alpha=0.35, color=colour)
        left.hist(rows[key], edges, density=True, histtype="step", color=colour, label=label)
    left.axvline(THRESHOLD, color="0.3", linestyle=":", linewidth=0.8, label="least cosine of a shared latent")
    left.set(xlabel="decoder cosine with the matched latent", ylabel="density of latents", xlim=(0, 1))
    for place, (seed, own) in enumerate(rows.groupby("seed")):
        tenth = pd.qcut(own["log10_density"].rank(method="first"), BINS, labels=False)
        means = own.groupby(tenth)[["log10_density", "cosine", "shared"]].mean()
        firing = 10 ** means["log10_density"]
        right.plot(firing, means["shared"], "-o", color=PALETTE[place], markersize=3.5, label=f"shared, seed {seed}")
        right.plot(firing, means["cosine"], "--", color=PALETTE[place], linewidth=0.9, label=f"cosine, seed {seed}")
    right.set(xscale="log", xlabel="share of tokens on which latents fire (tenths)", ylim=(0, None))
    right.set_ylabel("share shared, mean cosine")
    plain_ticks(right.xaxis, [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower center", ncols=3, frameon=False)
    return figure
