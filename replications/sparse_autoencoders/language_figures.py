"""Draws the figures of the language model's SAEs: frontier, grid, errors, training, dictionaries side by side."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from common.core.figures import PAGE_WIDTH, PALETTE, Picture

ARCHITECTURES = {
    "batch_topk": ("BatchTopK", "o", PALETTE[0]),
    "topk": ("TopK", "s", PALETTE[1]),
    "matryoshka": ("Matryoshka", "D", PALETTE[2]),
    "relu_april": ("ReLU + L1", "^", PALETTE[3]),
    "relu_bricken": ("ReLU + L1 (2023)", "v", PALETTE[3]),
    "gated": ("Gated", "P", PALETTE[4]),
    "jumprelu": ("JumpReLU", "X", PALETTE[5]),
}
CONTROLS = {
    "frozen": ("frozen decoder", "o"),
    "shuffled": ("trained on shuffled activations", "s"),
    "pca": ("principal components", "^"),
    "random": ("untrained dictionary", "v"),
    "neurons": ("largest coordinates", "D"),
}
SHADES = ["#9ecae1", "#4292c6", "#08519c", "#021a38"]
KINDS = {
    "trained": "trained",
    "soft": "soft-frozen decoder",
    "frozen": "frozen decoder",
    "random": "untrained dictionary",
    "pca": "principal components",
}
PANELS = {
    "explained": "variance explained",
    "recovered": "loss recovered",
    "delta_ce": "cross-entropy added",
    "kl": "KL (nats)",
    "probe_k1": "accuracy of one feature",
    "hard_explained": "explained, hard world",
    "hard_found": "found, hard world",
    "easy_found": "found, easy world",
}
IN_NATS = ("delta_ce", "kl")


def frontier(saes: pd.DataFrame) -> Picture:
    """L0 against FVU and against delta CE, every SAE and baseline."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.6), sharex=True)
    own = saes[saes["kind"].isin(["grid", "seed", "grid seed", "architecture"])]
    for axes, quantity in zip(panels, ("fvu", "delta_ce"), strict=True):
        widths = sorted(own[own["kind"] == "grid"]["width"].unique())
        for width, shade in zip(widths, SHADES, strict=False):
            line = own[(own["kind"] == "grid") & (own["width"] == width)].sort_values("l0")
            axes.plot(line["l0"], line[quantity], "-o", color=shade, markersize=4, label=f"BatchTopK, F = {width:.0f}")
            more = own[own["kind"].isin(["seed", "grid seed"]) & (own["width"] == width)]
            axes.plot(more["l0"], more[quantity], "o", color=shade, markersize=4, mfc="none", markeredgewidth=0.6)
        for _, row in own[own["kind"] == "architecture"].iterrows():
            name, marker, colour = ARCHITECTURES[row["architecture"]]
            axes.plot(row["l0"], row[quantity], marker, color=colour, markersize=5, label=name, zorder=4)
        for kind, (name, marker) in CONTROLS.items():
            line = saes[saes["kind"] == kind].sort_values("l0")
            style = "-" if kind in ("pca", "random", "neurons") else ""
            axes.plot(
                line["l0"], line[quantity], marker + style, color="0.55", mfc="white", markersize=4, lw=0.8, label=name
            )
        mean = saes[saes["name"] == "mean"][quantity]
        axes.axhline(float(mean.iloc[0]), color="0.3", linestyle=":", linewidth=0.8, label="mean ablation")
        axes.set(xscale="log", yscale="log", xlabel="L0, active latents per token")
        plain_ticks(axes.xaxis, [4, 8, 16, 32, 64, 128, 256])
        plain_ticks(axes.yaxis, [0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10])
    panels[0].set_ylabel("variance unexplained (FVU)")
    panels[1].set_ylabel("cross-entropy added (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, saes


def grid(saes: pd.DataFrame) -> Picture:
    """FVU over width and over k, with intervals over documents, and dead latents over width."""
    own = saes[saes["kind"] == "grid"]
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.6))
    for axes, x, other, quantity in zip(
        panels, ("width", "k", "width"), ("k", "width", "k"), ("fvu", "fvu", "dead"), strict=True
    ):
        for value, colour in zip(sorted(own[other].unique()), PALETTE, strict=False):
            line = own[own[other] == value].sort_values(x)
            spread = [line["fvu"] - line["fvu_low"], line["fvu_high"] - line["fvu"]] if quantity == "fvu" else None
            axes.errorbar(line[x], line[quantity], yerr=spread, fmt="-o", markersize=3.5, capsize=2, color=colour,
                          label=f"{'k' if other == 'k' else 'F'} = {value:.0f}")  # fmt: skip
        axes.set(xscale="log", xlabel="number of latents F" if x == "width" else "active latents k")
        ticks = sorted(own[x].unique())
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False)
    panels[0].set_ylabel("variance unexplained (FVU)")
    panels[1].sharey(panels[0])
    panels[1].tick_params(labelleft=False)
    panels[2].set_ylabel("share of latents that never fire")
    return figure, own


def errors(saes: pd.DataFrame) -> Picture:
    """KL of SAEs over KL of random points at the same distance, with intervals over documents."""
    own = saes.copy()
    own["label"] = [described(row) for _, row in own.iterrows()]
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.7, 0.26 * len(own) + 0.8))
    place = np.arange(len(own))[::-1]
    spread = [own["ratio"] - own["ratio_low"], own["ratio_high"] - own["ratio"]]
    axes.errorbar(own["ratio"], place, xerr=spread, fmt="o", capsize=2, color=PALETTE[0], label="SAE reconstruction")
    axes.plot(own["null"], place, "o", mfc="white", color="0.5", label="random points over others")
    axes.plot(
        own["shaped"], place, "^", mfc="white", color=PALETTE[1], label="over one with the activations' covariance"
    )
    axes.axvline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_yticks(place, own["label"])
    axes.set(xlabel="KL over that of a random point at the same distance", xlim=(0, None), ylim=(-0.6, len(own) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
    return figure, own


def described(row: "pd.Series[Any]") -> str:
    """Axis label of one SAE."""
    late = ", late layer" if row["kind"] == "late" else ""
    return f"k = {row['k']:.0f}, seed {row['seed']:.0f}{late}"


def training(lines: pd.DataFrame) -> Figure:
    """FVU, L0 and dead share over training: BatchTopK of further seeds, and the other architectures."""
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 3.0))
    chosen = lines[lines["kind"].isin(["architecture", "seed"])]
    for name, one in chosen.groupby("name", sort=False):
        architecture = str(name).split("-")[0]
        label, _, colour = ARCHITECTURES[architecture]
        progress = np.linspace(0, 1, len(one))
        for axes, quantity in zip(panels, ("fvu", "l0", "dead"), strict=True):
            drawn = {text.get_label() for text in axes.get_lines()}
            axes.plot(progress, one[quantity], color=colour, linewidth=1, label="_" if label in drawn else label)
    for axes, label in zip(panels, ("variance unexplained (batch)", "L0", "share of latents dead"), strict=True):
        axes.set(xlabel="share of training done", ylabel=label)
    panels[0].set_yscale("log")
    panels[1].set_yscale("log")
    plain_ticks(panels[0].yaxis, [0.1, 0.2, 0.3, 0.5, 1, 2])
    middle = chosen["l0"].iloc[-1]
    panels[1].set_ylim(min(middle / 4, chosen["l0"].min() * 0.9 + 0.1), max(4 * middle, chosen["l0"].max() * 1.1))
    plain_ticks(panels[1].yaxis, [1, 3, 10, 30, 100, 300])
    panels[2].set_ylim(-0.005, max(0.1, chosen["dead"].max() * 1.1))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    return figure


def plain_ticks(axis: Axis, wanted: list[float]) -> None:
    """Labels such as 0.5 instead of 5 x 10^-1; ticks outside the data stay outside."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in wanted if low <= tick <= high])
    axis.set_major_formatter(lambda value, place: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def dictionaries(rows: pd.DataFrame) -> Figure:
    """One panel per number, one line per kind, seeds as marks."""
    figure, panels = plt.subplots(2, len(PANELS) // 2, figsize=(PAGE_WIDTH, 4.0), sharey=True)
    for axes, (key, label) in zip(panels.flat, PANELS.items(), strict=True):
        panel(axes, rows[rows[key].notna()], key)
        axes.set(xlabel=label)
    places = list(heights().values())
    panels[0, 0].set_yticks(places, list(KINDS.values()))
    panels[0, 0].set_ylim(-0.5, len(KINDS) - 0.4)
    panels[0, 0].set_title("language model", loc="left")
    panels[1, 1].set_title("planted dictionaries", loc="left")
    return figure


def heights() -> dict[str, int]:
    return dict(zip(KINDS, range(len(KINDS))[::-1], strict=True))


def panel(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    """Marks, bars to the means, and the means as numbers at the right."""
    places = heights()
    means = rows.groupby("kind", sort=False)[key].mean()
    start = 0.5 if key.startswith("probe") else 0.0  # chance
    axes.hlines([places[str(kind)] for kind in means.index], start, means, color="0.85", linewidth=5, zorder=0)
    axes.plot(rows[key], rows["kind"].map(places), "o", color=PALETTE[0], markersize=4, alpha=0.8)
    for kind, value in means.items():
        axes.text(
            0.98, places[str(kind)] + 0.22, f"{value:.2f}", transform=axes.get_yaxis_transform(), ha="right",
            fontsize=6.5, color="0.35",
        )  # fmt: skip
    if key in IN_NATS:
        axes.set_xlim(0, 1.2 * max(1.0, rows[key].max()))
    else:
        axes.set(xlim=(start, start + 1.2 * (1 - start)), xticks=np.linspace(start, 1, 3).round(2))
