"""Figure of how models of Markov chains pass from guessing to counting symbols to counting pairs."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.core.figures import PAGE_WIDTH, PALETTE

PANELS = {
    "two_layers": "2 layers",
    "one_layer": "1 layer",
    "two_layers_doubly": "2 layers, doubly stochastic chains",
}
PREDICTORS = {"uniform": "uniform", "unigram": "unigram (Bayes)", "bigram": "bigram (Bayes)"}


def chains(frame: pd.DataFrame) -> Figure:
    """Above: divergence from the true chain, with the reference predictors. Below: how far each of these is from the
    model."""
    figure, axes = plt.subplots(2, len(PANELS), figsize=(PAGE_WIDTH, 3.9), sharex=True, sharey="row")
    for (top, bottom), (name, title) in zip(axes.T, PANELS.items(), strict=True):
        one = frame[frame["arm"] == name]
        for _, seed in one.groupby("seed"):
            top.plot(seed["step"], seed["truth"], color=PALETTE[6], linewidth=0.8)
            for (what, _), colour in zip(PREDICTORS.items(), PALETTE, strict=False):
                bottom.plot(seed["step"], seed[f"to_{what}"], color=colour, linewidth=0.8)
        for (what, label), colour in zip(PREDICTORS.items(), PALETTE, strict=False):
            top.axhline(one[f"best_{what}"].iloc[0], color=colour, linewidth=0.9, linestyle="--", label=label)
        top.set_title(title)
        bottom.set_xlabel("step")
    axes[0, 0].set_ylim(0, 1.5 * frame["best_uniform"].max())
    axes[1, 0].set_ylim(0, 1.1 * frame["best_uniform"].max())
    axes[0, 0].set_ylabel("divergence from\nthe truth (nats)")
    axes[1, 0].set_ylabel("divergence of the\npredictor (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=PALETTE[6]))
    figure.legend(handles, [*labels, "model"], loc="outside lower center", ncols=4, frameon=False)
    return figure
