"""Draws the cosines of matched latents, and how sharing goes with the firing rate, the width and the sparsity."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.core.figures import PAGE_WIDTH, PALETTE, Picture
from replications.sparse_autoencoders.draw_language import plain_ticks

THRESHOLD, BINS = 0.7, 10
GREY = "0.55"


def draw_overlap(rows: pd.DataFrame, pairs: pd.DataFrame) -> Picture:
    """Distribution of cosines; both by tenth of the firing rate; both by width; overlap by what differs."""
    figure, ((left, right), (width, other)) = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.8))
    edges = np.linspace(0, 1, 41)
    for key, label, colour in (
        ("cosine", "other seed", PALETTE[0]),
        ("random_cosine", "random directions, same covariance", GREY),
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
    by_width(width, pairs[pairs["what"] == "seeds"])
    by_difference(other, pairs)
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower center", ncols=3, frameon=False)
    return figure, pd.concat([rows.assign(panel="latents"), pairs.assign(panel="pairs")], ignore_index=True)


def by_width(axis: Axes, seeds: pd.DataFrame) -> None:
    """Pairs of seeds as marks, means as lines."""
    widths = sorted(seeds["width"].unique())
    axis.set_xscale("log", base=2)
    for key, style, colour, label in (
        ("overlap", "-o", PALETTE[0], "shared"),
        ("cosine", "--s", PALETTE[0], "mean cosine"),
        ("cosine_random", ":", GREY, "mean cosine, random"),
        ("overlap_random", "-", GREY, "shared, random"),
    ):
        means = seeds.groupby("width")[key].mean()
        axis.plot(means.index, means, style, color=colour, markersize=3.5, linewidth=1, label=label)
        if key in ("overlap", "cosine"):
            axis.plot(seeds["width"], seeds[key], ".", color=colour, markersize=3, alpha=0.6)
    axis.set(xlabel="latents", ylabel="share shared, mean cosine", ylim=(0, None))
    axis.set_xticks(widths, [str(one) for one in widths])
    axis.minorticks_off()
    axis.legend(frameon=False)


def by_difference(axis: Axes, pairs: pd.DataFrame) -> None:
    """Overlap of pairs at the largest width, by what they differ in, with random directions beside them."""
    own = pairs[pairs["width"] == pairs["width"].max()]
    names = {
        "seeds": "seed", "seeds of topk": "seed,\nTopK", "seeds of relu_bricken": "seed,\nReLU + L1",
        "sparsity": "sparsity", "seeds and sparsity": "seed and\nsparsity",
    }  # fmt: skip
    names = {what: name for what, name in names.items() if what in set(own["what"])}
    for place, what in enumerate(names):
        part = own[own["what"] == what]
        for offset, key, colour, marker in ((-0.1, "overlap", PALETTE[0], "o"), (0.1, "overlap_random", GREY, "s")):
            axis.plot(np.full(len(part), place + offset), part[key], marker, color=colour, markersize=4, alpha=0.8)
    axis.set(
        xticks=range(len(names)), xticklabels=list(names.values()), xlim=(-0.5, len(names) - 0.5), ylim=(-0.002, None)
    )
    axis.set(ylabel="share shared", xlabel="dictionaries differ in")
