"""Figures of how well names of heads hold: on the other half, and what single heads read."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.ioi_circuit.nodes import UNNAMED

AGREEMENT = {
    "same class": ("o", PALETTE[0]), "another class": ("X", PALETTE[3]), "named on one half": ("D", PALETTE[1]),
    "no name on either": (".", "0.7"),
}  # fmt: skip
LEGIBLE = 2.0  # percent: marks nearer than this to one with a name stay without


def receivers_apart(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """The strongest sender into each input of each named head, on both halves, and the two next ones."""
    rows = table.groupby(["receiver", "input"], sort=False).ngroup()
    figure, axes = plt.subplots(figsize=(0.8 * PAGE_WIDTH, 1.2 + 0.2 * (rows.max() + 1 if len(rows) else 1)))
    first = ~rows.duplicated()
    for strongest, colour, label in ((True, PALETTE[0], "strongest on discovery prompts"), (False, "0.65", "next two")):
        part, at = table[first == strongest], rows[first == strongest]
        reach = [part["effect_again"] - part["ci_low"], part["ci_high"] - part["effect_again"]]
        axes.errorbar(part["effect_again"], at, xerr=reach, fmt="o", color=colour, markersize=3, label=label)
    labelled: dict[int, list[float]] = {}
    for row, sender, x in zip(rows, table["sender"], table["effect_again"], strict=True):
        beside = labelled.setdefault(int(row), [])
        if all(abs(x - other) > LEGIBLE for other in beside):  # the strongest comes first
            axes.annotate(sender, (x, row), (0, 3), textcoords="offset points", fontsize=5, ha="center")
            beside.append(x)
    words = (table["receiver"] + ": " + table["input"])[first]
    axes.set_yticks(rows[first], words, fontsize=6)
    axes.set_ylim(rows.max() + 0.6 if len(rows) else 0.6, -0.8)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.grid(axis="y", color="0.93")
    axes.set_axisbelow(True)
    axes.set_xlabel("effect on verification prompts, % of the logit difference")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, table


def other_half(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effects of heads on both halves, marked where both give the same class, only one a name, or different names."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.2))
    table = table.assign(agreement=[_agreement(str(one), str(other)) for one, other in _classes(table)])
    direct = table["receivers"] == "logits"
    for axes, part, title in (
        (panels[0], table[direct], "on the logits"),
        (panels[1], table[~direct], "on the others"),
    ):
        axes.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
        for kind, (marker, colour) in AGREEMENT.items():
            one = part[part["agreement"] == kind]
            axes.scatter(one["effect"], one["effect_again"], marker=marker, s=16, color=colour, label=kind)
        for _, row in part[part["agreement"] != "no name on either"].iterrows():
            at = (row["effect"], row["effect_again"])
            axes.annotate(row["head"], at, (3, 3), textcoords="offset points", fontsize=5.5)
        axes.set_title(title, loc="left")
        axes.set_xlabel("effect on the discovery half, %")
    panels[0].set_ylabel("effect on the verification half, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure, table


def _classes(table: pd.DataFrame) -> list[tuple[object, object]]:
    return list(zip(table["class"].fillna(""), table["class_again"].fillna(""), strict=True))


def _agreement(one: str, other: str) -> str:
    named = [kind not in ("", *UNNAMED) for kind in (one, other)]
    if all(named):
        return "same class" if one == other else "another class"
    return "named on one half" if any(named) else "no name on either"
