"""Figures of automated discovery: faithfulness against the share of edges; first-order against exact scores."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE

FINDERS = {"eap": ("EAP", PALETTE[1], "s"), "eap_ig": ("EAP-IG", PALETTE[0], "o")}
PLAIN = {**FINDERS, "sizes_alone": ("sizes alone", PALETTE[4], "v")}
CURVES = {**PLAIN, "eap_ig_signed": ("EAP-IG, signed", PALETTE[3], "D")}
PLANTED_FINDERS = {**PLAIN, "exact": ("exact edges", PALETTE[2], "D"), "acdc": ("ACDC", PALETTE[3], "^")}


def edge_curves(table: pd.DataFrame) -> Figure:
    """Faithfulness against the share of edges."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH * 1.3, 2.7))
    _curves(axes, table, CURVES)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, finders: dict[str, tuple[str, str, str]]) -> None:
    """f(C) of each finder over the share of edges, and the range of random rankings."""
    ends = pd.DataFrame({"share": [1.0], "f": [1.0]})
    random = table[table["finder"] == "random"]
    band = random.groupby("share")["f"].agg(["min", "median", "max"]).reset_index()
    axes.fill_between(100 * band["share"], band["min"], band["max"], color="0.8", label="random rankings")
    axes.plot(100 * band["share"], band["median"], color="0.5", linewidth=1)
    for finder, (label, colour, marker) in finders.items():
        part = pd.concat([table[table["finder"] == finder][["share", "f"]], ends])
        axes.plot(100 * part["share"], part["f"], marker=marker, color=colour, label=label, markersize=4)
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_xlabel("edges kept, % of all")
    axes.set_ylabel("faithfulness f(C)")


def attribution(table: pd.DataFrame) -> Figure:
    """First-order against exact scores, and the strongest heads."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.0))
    left.scatter(table["exact_direct"], table["eap_direct"], s=10, color=PALETTE[0], alpha=0.8)
    both = table[["exact_direct", "eap_direct"]].to_numpy()
    low, high = float(both.min()), float(both.max())
    left.plot([low, high], [low, high], color="0.7", linewidth=0.8, zorder=0)
    left.set_xlabel("exact direct path, % of the logit difference")
    left.set_ylabel("EAP edge into the logits, %")
    left.set_title("one head each: first order against exact", loc="left")
    ranked = (
        table.reindex(table["eap_ig_node"].abs().sort_values(ascending=False).index).head(25).reset_index(drop=True)
    )
    colours = [PALETTE[0] if named else "0.7" for named in ranked["named"]]
    right.bar(ranked.index, ranked["eap_ig_node"], color=colours)
    names = [f"{layer}.{head}" for layer, head in zip(ranked["layer"], ranked["head"], strict=True)]
    right.set_xticks(ranked.index, names, rotation=90, fontsize=6)
    right.axhline(0, color="0.6", linewidth=0.8)
    right.set_ylabel("attribution (EAP-IG), %")
    right.set_title("strongest heads; blue: named by path patching", loc="left")
    return figure


def planted_edges(edges: pd.DataFrame, curves: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left: planted edges found against other edges taken along, one line per model. Right: faithfulness, with the
    smallest and largest random ranking."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.9))
    rows = []
    for finder, (label, colour, marker) in PLANTED_FINDERS.items():
        for seed, one in edges.groupby("seed"):
            planted = one.sort_values(finder, ascending=False, kind="stable")["planted"].to_numpy()
            found, others = np.cumsum(planted) / planted.sum(), np.cumsum(1 - planted) / (1 - planted).sum()
            left.plot(others, found, color=colour, linewidth=0.8, label=label if seed == edges["seed"].iloc[0] else "_")
            rows.append(pd.DataFrame({"finder": finder, "seed": seed, "others": others, "found": found}))
        mean = curves[curves["finder"] == finder].groupby("share")["f"].mean()
        right.plot(100 * mean.index, mean, marker=marker, color=colour, markersize=4, label=label)
    band = curves[curves["finder"] == "random"].groupby("share")["f"].agg(["min", "max"])
    right.fill_between(100 * band.index, band["min"], band["max"], color="0.85", zorder=0)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--", zorder=0)
    left.set(xlabel="other edges taken along, share", ylabel="planted edges found, share")
    right.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    right.set(xscale="log", xlabel="edges kept, % of all", ylabel="faithfulness f(C)")
    ticks = sorted({100 * share for share in curves["share"]})
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure, pd.concat(rows)
