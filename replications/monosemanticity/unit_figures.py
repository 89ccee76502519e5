"""Figures of features and neurons."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.drawing import Picture
from common.plotting import COLUMN_WIDTH, PAGE_WIDTH, PALETTE

KINDS = {
    "features": ("latents", PALETTE[0], "-"),
    "narrow": ("latents, narrowest", PALETTE[5], "-"),
    "relu": ("latents, narrowest, ReLU and L1", PALETTE[4], "-"),
    "neurons": ("neurons, same rates", PALETTE[1], "-"),
    "raw": ("neurons, as they fire", PALETTE[1], ":"),
    "rotated": ("rotated neurons", PALETTE[2], "-"),
    "start": ("untrained dictionary", "0.5", "--"),
    "untrained": ("latents, untrained network", PALETTE[3], "-"),
    "shuffled": ("latents, exchanged explanations", "0.5", ":"),
}


def units(quarters: pd.DataFrame, table: pd.DataFrame) -> Picture:
    """Balanced accuracy by quarter of the activations; right, one unit after the other."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.7))
    for ax, score in zip(axes, ("detection", "fuzzing"), strict=False):
        for kind, (label, colour, line) in KINDS.items():
            own = quarters[(quarters["kind"] == kind) & (quarters["score"] == score)].groupby("quarter")["accuracy"]
            ax.plot(own.mean().index, own.mean(), line, marker="o", markersize=3, color=colour, label=label)
            ax.fill_between(own.mean().index, own.min(), own.max(), color=colour, alpha=0.2, linewidth=0)
        ax.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
        ax.set(xlabel="quarter of activations, 1 strongest", ylabel=f"balanced accuracy, {score}", xticks=range(1, 5))
    for kind, (label, colour, line) in KINDS.items():
        each = np.sort(table.loc[table["kind"] == kind, "fuzzing"])[::-1]
        if len(each):
            axes[2].plot(np.linspace(0, 1, len(each)), each, line, color=colour, label=label)
    axes[2].set(xlabel="units, best explained first", ylabel="balanced accuracy, fuzzing")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, quarters


def logits(table: pd.DataFrame) -> Picture:
    """Correlations of logit weights and what follows, unit by unit."""
    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    for kind, own in table.groupby("kind", sort=False):
        label, colour, line = KINDS[str(kind)]
        values = np.sort(own["logits"])
        ax.plot(values, np.linspace(0, 1, len(values)), line, color=colour, label=label)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="correlation of logit weights and lift of next tokens", ylabel="share of units below")
    ax.legend(frameon=False, loc="lower right")
    return figure, table[["seed", "kind", "unit", "logits"]]


def examples(table: pd.DataFrame) -> Figure:
    """Contexts of some latents, one row per quarter, shaded by activation."""
    groups = list(table.groupby("place", sort=False))
    lines = -(-len(groups) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(PAGE_WIDTH, 0.95 * lines), squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, (_, own) in zip(axes.flat, groups, strict=False):
        first = own.iloc[0]
        ax.set(xlim=(0, 50), ylim=(4.6, -0.75))
        ax.axis("off")
        score = f"latent {first['unit']}, detection {float(first['detection']):.2f}:"
        ax.text(0, -0.35, f"{score} {first['explanation']}", fontsize=6.5, weight="bold", va="center", parse_math=False)
        for quarter, line in own.groupby("quarter"):
            _line(ax, line.sort_values("offset"), int(str(quarter)))
    return figure


def _line(ax: Axes, line: pd.DataFrame, quarter: int) -> None:
    """One context in a font of equal widths, so that shading and text agree."""
    width, left = 0.78, 6.5
    ax.text(0, quarter - 0.4, f"quarter {quarter}", fontsize=6, color="0.4", va="center")
    at = left
    for word, level in zip(line["token"].astype(str), line["level"].astype(float), strict=True):
        text = word[:14]
        if level > 0:
            end, alpha = at + width * len(text), 0.15 + 0.6 * level
            ax.axvspan(at, end, *_span(quarter), color=PALETTE[1], alpha=alpha, linewidth=0)
        ax.text(at, quarter - 0.4, text, fontsize=6, family="DejaVu Sans Mono", va="center", parse_math=False)
        at += width * len(text) + 0.35


def _span(quarter: int) -> tuple[float, float]:
    """Lower and upper end of a row as shares of the height."""
    low, high = quarter - 0.85, quarter + 0.05
    return 1 - (high + 0.75) / 5.35, 1 - (low + 0.75) / 5.35
