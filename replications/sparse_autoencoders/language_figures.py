"""Draws the figures of the language model's SAEs: frontier, errors, training, latents and what they stand for."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
    "soft": ("soft-frozen decoder", "o"),
    "clusters": ("clusters, matching pursuit", "s"),
    "untrained_pursuit": ("untrained rows, matching pursuit", "x"),
    "pursuit": ("trained rows, matching pursuit", "*"),
    "pca": ("principal components", "^"),
    "random": ("untrained dictionary", "v"),
    "neurons": ("largest coordinates", "D"),
}
NEAREST = {"soft": (PALETTE[1], 1.06), "clusters": (PALETTE[2], 1.0), "pursuit": (PALETTE[0], 0.94)}
"""Colour of the codes that come near the SAEs, and the factor by which they are moved sideways to be seen apart."""
ASSERTED = 0.05  # of the loss that mean ablation adds: what the landmark `frontier` leaves
SHADES = ["#9ecae1", "#4292c6", "#08519c", "#021a38"]
DIRECTIONS = {
    "random_points": ("random points over others", "o"),
    "same_norm_points": ("random, norm and cosine kept", "v"),
    "covariance_points": ("random, covariance of activations", "^"),
    "other_token_errors": ("the SAE's error on another token", "D"),
    "principal_errors": ("error of principal components", "s"),
}
CODES = {
    "soft_frozen": ("soft-frozen decoder", "o"),
    "random_dictionary": ("untrained dictionary", "v"),
    "clusters": ("cluster, matching pursuit", "s"),
    "principal_components": ("principal component", "^"),
    "coordinates": ("coordinate", "D"),
    "token_set": ("set of tokens", "x"),
    "token_pairs": ("table of token pairs", "+"),
}


def codes(saes: pd.DataFrame) -> Figure:
    """FVU and delta CE of every code at the one number of active latents that there is, best at the top."""
    named = {"main": "trained SAE", **{kind: label for kind, (label, _) in CONTROLS.items()}, "mean": "mean ablation"}
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.3), sharey=True)
    place = {
        kind: -row for row, kind in enumerate(saes.groupby("kind")["fvu"].mean().loc[list(named)].sort_values().index)
    }
    for axes, key, label in (
        (panels[0], "fvu", "variance unexplained (FVU)"),
        (panels[1], "delta_ce", "cross-entropy added (nats)"),
    ):
        for kind, own in saes[saes["kind"].isin(named)].groupby("kind"):
            colour, face = (PALETTE[0], PALETTE[0]) if kind == "main" else ("0.5", "white")
            rows = place[str(kind)] + np.linspace(-0.1, 0.1, len(own)) * (len(own) > 1)
            axes.errorbar(own[key], rows, xerr=ends(own, key), fmt="o", capsize=2, color=colour, mfc=face, markersize=4)
        axes.set(xscale="log", xlabel=label)
    panels[0].set_yticks(list(place.values()), [named[kind] for kind in place])
    plain_ticks(panels[0].xaxis, [0.2, 0.3, 0.5, 1])
    plain_ticks(panels[1].xaxis, [0.2, 0.5, 1, 2, 5])
    return figure


def frontier(saes: pd.DataFrame) -> Picture:
    """L0 against FVU and against delta CE, every SAE and baseline of the studied layer."""
    own = saes[saes["kind"].isin(["grid", "main", "architecture"])]
    if own["k"].nunique() == 1:
        return codes(saes), saes
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.6), sharex=True)
    for axes, quantity in zip(panels, ("fvu", "delta_ce"), strict=True):
        trained = own[own["kind"] != "architecture"]
        for width, shade in zip(sorted(trained["width"].unique()), SHADES, strict=False):
            line = trained[trained["width"] == width].groupby("k")[["l0", quantity]].mean()
            axes.plot(line["l0"], line[quantity], "-", color=shade, linewidth=1)
            points = trained[trained["width"] == width]
            label = f"BatchTopK, F = {width:.0f}"
            axes.errorbar(points["l0"], points[quantity], ends(points, quantity), fmt="o", capsize=2, color=shade,
                          markersize=4, label=label)  # fmt: skip
        for architecture, line in own[own["kind"] == "architecture"].groupby("architecture", sort=False):
            name, marker, colour = ARCHITECTURES[str(architecture)]
            axes.errorbar(line["l0"], line[quantity], ends(line, quantity), fmt=f"{marker}-", capsize=2, lw=0.8,
                          color=colour, markersize=4, label=name, zorder=4)  # fmt: skip
        for kind, (name, marker) in CONTROLS.items():
            line = saes[saes["kind"] == kind].sort_values("l0")
            style, (colour, moved) = marker if kind == "soft" else f"{marker}-", NEAREST.get(kind, ("0.55", 1.0))
            axes.errorbar(moved * line["l0"], line[quantity], ends(line, quantity), fmt=style, capsize=2, color=colour,
                          mfc="white", markersize=4, lw=0.8, label=name)  # fmt: skip
        mean = float(saes.loc[saes["name"] == "mean", quantity].iloc[0])
        axes.axhline(mean, color="0.3", linestyle=":", linewidth=0.8, label="mean ablation")
        if quantity == "delta_ce":
            axes.axhline(ASSERTED * mean, color="0.3", linestyle="--", linewidth=0.8)
            axes.annotate("95 % undone", (0.85, ASSERTED * mean), (0, 2), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", fontsize=6.5)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="L0, active latents per token")
        plain_ticks(axes.xaxis, [4, 8, 16, 32, 64, 128, 256])
        plain_ticks(axes.yaxis, [0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10])
    panels[0].set_ylabel("variance unexplained (FVU)")
    panels[1].set_ylabel("cross-entropy added (nats)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure, saes


def ends(rows: pd.DataFrame, key: str) -> list[pd.Series]:
    """How far the interval of each row reaches below and above its value, as `errorbar` wants it."""
    return [rows[key] - rows[f"{key}_low"], rows[f"{key}_high"] - rows[key]]


def errors(saes: pd.DataFrame) -> Picture:
    """KL of SAEs, and of other directions in place of their error, over KL of random points at the same distance."""
    second = np.where(saes["kind"] == "second", ", second layer", "")
    labels = [
        f"k = {k:.0f}, seed {seed:.0f}{end}" for k, seed, end in zip(saes["k"], saes["seed"], second, strict=True)
    ]
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.7, 0.26 * len(saes) + 1.2))
    place = np.arange(len(saes))[::-1]
    spread = ends(saes, "ratio")
    axes.errorbar(saes["ratio"], place, xerr=spread, fmt="o", capsize=2, color=PALETTE[0], label="SAE reconstruction")
    for key, (label, marker) in DIRECTIONS.items():
        axes.plot(saes[key], place, marker, mfc="white", color="0.5", label=label)
    axes.axvline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_yticks(place, labels)
    axes.set(xlabel="KL over that of a random point at the same distance", xlim=(0, None), ylim=(-0.6, len(saes) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, saes


def training(lines: pd.DataFrame) -> Figure:
    """FVU, L0 and dead share over training: main and soft-frozen dictionaries, and the other architectures."""
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 3.0))
    chosen = lines[lines["kind"].isin(["architecture", "main", "soft"])]
    for name, one in chosen.groupby("name", sort=False):
        label, _, colour = ARCHITECTURES.get(str(name).split("-")[0], ("soft-frozen decoder", "", "0.55"))
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
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def latents(rows: pd.DataFrame) -> Figure:
    """How far decoder rows went from their random start, and how often a latent's strongest tokens are one token."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    for axes, key, label in (
        (left, "start_cosine", "cosine of a decoder row with its random start"),
        (right, "purity", "share of the commonest of the 20 strongest tokens"),
    ):
        step = 0.05 if key == "purity" else 0.025  # of 20 tokens
        bins = np.arange(min(0.0, rows[key].min()), 1 + 2 * step, step) - step / 2
        for place, (seed, own) in enumerate(rows.groupby("seed")):
            axes.hist(
                own[key].dropna(), bins, histtype="step", color=PALETTE[place % len(PALETTE)], label=f"seed {seed}"
            )
        axes.set(xlabel=label, ylabel="latents")
    left.axvline(0.4, color="0.6", linestyle=":", linewidth=1)
    right.legend(frameon=False)
    return figure


def lengths(rows: pd.DataFrame) -> Figure:
    """Cosine to the start, purity and overlap of seeds over the length of training."""
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.4))
    trained, soft = rows[rows["kind"] != "soft"], rows[rows["kind"] == "soft"]
    named = {
        "start_cosine": "median cosine with the start",
        "purity": "purity of tokens",
        "overlap": "overlap of seeds",
    }
    for axes, (key, label) in zip(panels, named.items(), strict=True):
        for _, own in trained.groupby("seed"):
            own = own.sort_values("share")
            axes.plot(own["share"], own[key], "-o", markersize=3, color=PALETTE[0], linewidth=0.8)
        if key == "overlap":
            axes.plot(trained["share"], trained["overlap_random"], "v", color="0.55", mfc="white", markersize=4)
        axes.plot(soft["share"], soft[key], "o", color="0.55", mfc="white", markersize=4)
        axes.set(xlabel="share of the training", ylabel=label, ylim=(0, 1.02))
    return figure


def examples(rows: pd.DataFrame) -> Figure:
    """Latents drawn at random, with their strongest contexts; the token on which they fire stands in brackets."""
    groups = list(rows.groupby("latent", sort=False))
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 0.2 + 0.16 * (1.4 + len(rows) + 0.6 * len(groups))))
    axes.axis("off")
    for x, text in ((0, "latent"), (0.07, "strongest contexts on held-out documents")):
        axes.text(x, 0, text, fontsize=6.5, color="0.4", va="top")
    height = 1.4
    for latent, own in groups:
        axes.text(0, -height, f"{latent}", fontsize=6.5, color=PALETTE[0], va="top", family="DejaVu Sans Mono")
        for text in own["text"]:
            plain = str(text).replace("\n", "⏎").replace("$", r"\$")
            axes.text(
                0.07,
                -height,
                textwrap.shorten(plain, 118, placeholder="…"),
                fontsize=6,
                va="top",
                family="DejaVu Sans Mono",
            )
            height += 1
        height += 0.6
    axes.set(xlim=(0, 1), ylim=(-height, 0))
    return figure


def patterns(rows: pd.DataFrame) -> Picture:
    """F1 of the best unit for each pattern on held-out documents, with the tokens that the best latent raises."""
    own = rows[rows["code"] == "latents"].groupby("pattern")["f1"].mean().sort_values()
    place = {name: at for at, name in enumerate(own.index)}
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 0.28 * len(place) + 1.0))
    for code, (label, marker) in CODES.items():
        mean = rows[rows["code"] == code].groupby("pattern")["f1"].mean()
        axes.plot(mean, mean.index.map(place), marker, color="0.55", mfc="white", markersize=4, label=label)
    trained = rows[rows["code"] == "latents"]
    axes.plot(trained["f1"], trained["pattern"].map(place), "o", color=PALETTE[0], markersize=3.5, alpha=0.7)
    axes.plot(
        own, own.index.map(place), "|", color=PALETTE[0], markersize=11, mew=2, label="trained SAE, mean of seeds"
    )
    for name, raised in trained.dropna(subset=["raises"]).set_index("pattern")["raises"].items():
        text = str(raised).replace("$", r"\$")
        axes.text(
            1.03, place[str(name)], textwrap.shorten(text, 36, placeholder=" …"), fontsize=6, va="center", color="0.25"
        )
    axes.text(1.03, len(place) - 0.35, "tokens that the latent raises most", fontsize=6.5, color="0.25", va="bottom")
    axes.set_yticks(list(place.values()), list(place))
    axes.set(xlabel="F1 of the best single unit, held-out documents", xlim=(0, 1), ylim=(-0.6, len(place) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure, rows


def plain_ticks(axis: Axis, wanted: list[float]) -> None:
    """Labels such as 0.5 instead of 5 x 10^-1; ticks outside the data stay outside."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in wanted if low <= tick <= high])
    axis.set_major_formatter(lambda value, place: f"{value:g}")
    axis.set_minor_locator(NullLocator())
