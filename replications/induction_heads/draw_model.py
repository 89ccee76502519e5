"""Step: draws what the heads of a language model look at, and what is left of gain and text without them."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, SEQUENTIAL, Plan, run_plans

SCORES = {"induction": "induction", "previous": "previous token", "duplicate": "duplicate token"}
ROLES = {"induction": "induction heads", "previous": "previous-token heads"}
OTHERS = {"": "", "_others": "lowest scores", "_random": "random, same layers", "_writers": "write most, same layers"}
WRITES = {"ov_eigenvalues": "OV eigenvalue score", "copying": "copying, 25 tokens"}
SOURCES = {"": "embedding", "_after_first_block": "after the first block"}


def score_maps(frame: pd.DataFrame) -> Figure:
    """Layer by head, one map per score."""
    figure, axes = plt.subplots(1, len(SCORES), figsize=(PAGE_WIDTH, 3.4), sharey=True)
    for ax, (column, label) in zip(axes, SCORES.items(), strict=True):
        grid = frame.pivot(index="layer", columns="head", values=column)
        mesh = ax.imshow(grid, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.set(title=label, xlabel="head")
    axes[0].set_ylabel("layer")
    figure.colorbar(mesh, ax=axes.tolist(), label="score")
    return figure


def repeats(frame: pd.DataFrame) -> Figure:
    """Gain and prefix score left, per group, full ablation and patterns kept."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.0), sharey=True)
    groups = {
        f"{role}{other}": (label or title, colour)
        for (role, title), colour in zip(ROLES.items(), PALETTE, strict=False)
        for other, label in OTHERS.items()
    }
    for ax, what, label in zip(
        axes, ("gain", "prefix"), ("gain (nats)", "prefix score of induction heads"), strict=True
    ):
        for i, (group, (_, colour)) in enumerate(groups.items()):
            alpha = 0.9 if group in ROLES else 0.4
            for shift, (kind, hatch) in zip((-0.2, 0.2), (("full", None), ("pattern-preserving", "////")), strict=True):
                values = frame[(frame["group"] == group) & (frame["kind"] == kind)][f"{what}_without"]
                if len(values):
                    style = {"color": colour, "alpha": alpha, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
                    ax.barh(i + shift, values.mean(), 0.36, **style)
                    ax.plot(values, [i + shift] * len(values), "o", color="0.2", markersize=1.5)
        ax.axvline(frame[what].mean(), color="0.4", linewidth=1.0)
        ax.set_xlabel(f"{label} left")
    axes[0].set_yticks(range(len(groups)), [label for label, _ in groups.values()])
    axes[0].invert_yaxis()
    return figure


def writing(frame: pd.DataFrame) -> Figure:
    """What every head writes, from its weights, against its induction score."""
    figure, axes = plt.subplots(1, len(WRITES), figsize=(PAGE_WIDTH * 0.8, 2.5))
    for ax, (score, label) in zip(axes, WRITES.items(), strict=True):
        ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
        for (source, name), colour in zip(SOURCES.items(), PALETTE, strict=False):
            ax.plot(frame["induction"], frame[score + source], ".", color=colour, markersize=3.5, alpha=0.8, label=name)
        ax.set(xlabel="induction score", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def fuzzy(frame: pd.DataFrame) -> Figure:
    """Attention of every induction head to what followed the same word in small letters, and to the same places."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.62, 2.4))
    names = [f"{layer}.{head}" for layer, head in frame[["layer", "head"]].drop_duplicates().to_numpy()]
    kinds = {"capitalised": "the same words, capitalised", "unrepeated": "other words in the first copy"}
    for shift, colour, (kind, label) in zip((-0.12, 0.12), PALETTE, kinds.items(), strict=False):
        one = frame[frame["words"] == kind]
        for _, seed in one.groupby("seed"):
            places = [i + shift for i in range(len(names))]
            axes.plot(places, seed["fuzzy"], "o", color=colour, markersize=3, alpha=0.8, label=label)
            label = "_"
    axes.set_xticks(range(len(names)), names)
    axes.set(
        xlabel="induction head (chosen on exact repeats)",
        ylabel="attention to what\nfollowed the word",
        ylim=(-0.02, 1),
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def windows(frame: pd.DataFrame) -> Figure:
    """Loss by position in the document, intact and without the induction heads."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.62, 2.4))
    for (name, one), colour in zip(frame.groupby("model", sort=False), PALETTE, strict=False):
        axes.plot(one["token"], one["loss"], color=colour, label=name, linewidth=1.1)
    axes.set(xlabel="token of the document", ylabel="loss (nats)")
    axes.legend(frameon=False)
    return figure


def rises(frame: pd.DataFrame) -> Figure:
    """Rise of the loss on completing tokens against that on all others, one dot per removed set of heads."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.5, 3.2))
    kind = frame["heads"].str.split(" ").str[0]
    labels = {
        "induction": "induction heads",
        "random": "random heads, same layers",
        "writers": "heads that write most, same layers",
    }
    for (name, label), colour, marker in zip(labels.items(), PALETTE, "Dos", strict=False):
        one = frame[kind == name]
        axes.plot(one["others"], one["pairs"], marker, color=colour, label=label, markersize=4)
    low, high = min(0.0, frame["others"].min()), max(0.02, frame["others"].max())
    axes.plot([low, high], [3 * low, 3 * high], color="0.5", linewidth=0.8, label="three times as much")
    axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xlabel="rise of the loss on other tokens (nats)", ylabel="rise on tokens that\ncomplete a pair (nats)")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure


PLANS = {
    "scores/score_maps": Plan(score_maps, ("scores.csv",)),
    "scores/writing": Plan(writing, ("scores.csv",)),
    "scores/fuzzy": Plan(fuzzy, ("fuzzy.csv",)),
    "repeats/repeats": Plan(repeats, ("ablations.csv",)),
    "real_text/windows": Plan(windows, ("windows.csv",)),
    "real_text/rises": Plan(rises, ("rises.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
