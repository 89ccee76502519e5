"""Figures of dictionaries as wholes: loss, splitting, universality."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE, Picture
from common.core.metrics import Metric
from replications.monosemanticity.reconstruction import Row, recovered

TWINS = {
    "features": ("latents", PALETTE[0], "-"),
    "neurons": ("neurons", PALETTE[1], "-"),
    "untrained": ("latents, untrained networks", PALETTE[3], "-"),
    "features_null": ("latents, other documents", PALETTE[0], ":"),
    "neurons_null": ("neurons, other documents", PALETTE[1], ":"),
}


def loss(ways: pd.DataFrame, curves: pd.DataFrame, metrics: dict[str, Metric]) -> Picture:
    """Left: training. Right: loss recovered against width, with baselines."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.7))
    for _, own in curves.groupby("seed"):
        left.plot(own["tokens"] / 1000, own["loss"], color=PALETTE[0], linewidth=1)
    model = metrics["ce_model"].value
    for name, line in (("unigram", ":"), ("bigram", "--")):
        left.axhline(model + metrics[f"gain_over_{name}"].value, color="0.4", linestyle=line, label=f"{name} counts")
    left.set(xlabel="thousand tokens", ylabel="held-out cross-entropy, nats")
    left.legend(frameon=False)
    table = _recovered(ways)
    for ax, ablation in ((middle, "zero"), (right, "mean")):
        for kind, label, colour in (
            ("trained", "dictionary", PALETTE[0]),
            ("start", "untrained dictionary", "0.5"),
            ("twin", "dictionary, other starts", PALETTE[5]),
            ("relu", "dictionary, ReLU and L1", PALETTE[4]),
        ):
            own = table[table["kind"] == kind]
            at = own["width"] * {"twin": 1.1, "relu": 1.2}.get(kind, 1.0)
            ax.plot(at, own[ablation], "o", color=colour, markersize=4, alpha=0.7, label=label)
            means = own.groupby("width")[ablation].mean()
            ax.plot(means.index, means, color=colour, linewidth=1)
        for kind, line in (("components", "--"), ("neurons", ":")):
            level = table.loc[table["kind"] == kind, ablation].mean()
            ax.axhline(level, color=PALETTE[1], linestyle=line, label=f"as many {kind}")
        widths = sorted(table.loc[table["kind"] == "trained", "width"].unique())
        ax.set_xscale("log", base=2)
        ax.set_xticks(widths, [str(int(width)) for width in widths])
        ax.minorticks_off()
        ax.set(xlabel="latents", ylabel=f"loss recovered, {ablation} ablation")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure, table


def _recovered(ways: pd.DataFrame) -> pd.DataFrame:
    """Loss recovered of every way that has one."""
    rows: list[dict[str, Any]] = []
    for seed, own in ways.groupby("seed"):
        known: list[Row] = own.to_dict("records")  # type: ignore[assignment]
        for name, value, width in own[["name", "ce", "width"]].itertuples(index=False):
            kind = str(name).split("-")[0].rstrip("0123456789")
            if kind in ("clean", "zero", "mean"):
                continue
            found = {ablation: recovered(known, str(name), ablation) for ablation in ("zero", "mean")}
            rows.append({"seed": seed, "kind": kind, "width": width, "ce": value, **found})
    return pd.DataFrame(rows)


def splitting(nests: pd.DataFrame) -> Picture:
    """How far the firings of a wide latent lie inside those of its parent."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    for (kind, own), colour in zip(nests.groupby("kind", sort=False), (PALETTE[0], "0.5"), strict=True):
        label = {"own parent": "nearest narrow latent", "permuted": "nearest after permuting neurons"}[str(kind)]
        for ax, column in zip(axes, ("cosine", "inside"), strict=True):
            values = np.sort(own[column])
            ax.plot(values, np.linspace(0, 1, len(values)), color=colour, label=label)
    axes[0].set(xlabel="decoder cosine with the narrow latent", ylabel="share of wide latents below")
    axes[1].set(xlabel="share of firings inside its firings", ylabel="share of wide latents below")
    axes[1].legend(frameon=False, loc="lower right")
    return figure, nests


def families(table: pd.DataFrame) -> Figure:
    """Trees from the narrowest to the widest dictionary, with the tokens that explain each latent."""
    widths = sorted(table["width"].astype(int).unique())
    column = {width: place for place, width in enumerate(widths)}
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH, 0.6 + 0.14 * max(8, len(table))))
    height: dict[tuple[int, int], float] = {}
    line = 0.0
    for _, own in table.groupby("family"):
        children: dict[tuple[int, int], list[int]] = {}
        for width, parent, latent in own[["width", "parent", "latent"]].astype(int).to_numpy().tolist():
            children.setdefault((column[width], parent), []).append(latent)
        line = _place(ax, own, children, widths, 0, int(own.iloc[0]["latent"]), line, height) + 0.8
    for place, width in enumerate(widths):
        ax.text(place, -1.0, f"{width} latents", ha="left", va="center", fontsize=8, weight="bold")
    ax.set(xlim=(-0.05, len(widths)), ylim=(line, -1.6))
    ax.axis("off")
    return figure


def _place(
    ax: Any, own: pd.DataFrame, children: dict[tuple[int, int], list[int]], widths: list[int], place: int, latent: int,
    line: float, height: dict[tuple[int, int], float],
) -> float:  # fmt: skip
    """Draws one latent and everything below it from `line` on; returns the line behind the last one."""
    below = children.get((place + 1, latent), []) if place + 1 < len(widths) else []
    begin = line
    for child in below:
        line = _place(ax, own, children, widths, place + 1, child, line, height)
    line = max(line, begin + 1)
    middle = (begin + line - 1) / 2
    height[place, latent] = middle
    row = own[(own["width"] == widths[place]) & (own["latent"] == latent)].iloc[0]
    label = str(row["label"])
    ax.text(place, middle, label[:34], fontsize=6, va="center", ha="left", parse_math=False)
    for child in below:
        ax.plot([place + 0.72, place + 0.97], [middle, height[place + 1, child]], color=PALETTE[5], linewidth=0.9)
    return line


def universality(twins: pd.DataFrame) -> Picture:
    """Largest correlation of each unit with a unit of another network."""
    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.6))
    for kind, (label, colour, line) in TWINS.items():
        values = np.sort(twins.loc[twins["kind"] == kind, "correlation"])
        ax.plot(values, np.linspace(0, 1, len(values)), line, color=colour, label=label)
    ax.set(xlabel="largest correlation with a unit elsewhere", ylabel="share of units below", xlim=(-0.02, 1.02))
    ax.legend(frameon=False, loc="lower right", fontsize=6)
    return figure, twins
