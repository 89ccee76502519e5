"""Figures of the verification: size curve, completeness, minimality and ablation grid."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from common.core.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE
from common.core.metrics import Metric

COLOURS = {
    "previous": PALETTE[3],
    "duplicate": PALETTE[5],
    "induction": PALETTE[4],
    "s_inhibition": PALETTE[6],
    "s_suppressing": PALETTE[2],
    "name_mover": PALETTE[0],
    "backup": "#7f6000",
    "negative": PALETTE[1],
    "unclassified": "0.55",
    "uncounted": "0.8",
}
PRINTED_NODES = 40
LIMITS = (1.5, 2.5)


def curve(table: pd.DataFrame, found: dict[str, Metric]) -> Figure:
    """Faithfulness against size, with random heads."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH * 1.3, 2.8))
    for name, colour in (("discovery", PALETTE[5]), ("verification", PALETTE[0])):
        axes.plot(table["heads"], table[name], "o-", color=colour, label=f"{name} half", markersize=3.5)
    null, size = found["circuit_faithfulness_random"], found["circuit_heads_share"]
    heads = size.value * size.n
    reach = [[null.value - null.ci_low], [null.ci_high - null.value]]
    axes.errorbar([heads], [null.value], yerr=reach, fmt="s", color=PALETTE[1], label="random heads, same layers")
    axes.axvline(heads, color="0.7", linestyle="--", linewidth=0.8, label="chosen circuit")
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"heads in the circuit (of {int(table['of_heads'].iloc[0])})")
    axes.set_ylabel("faithfulness F(C) / F(M)")
    axes.legend(frameon=False)
    return figure


CIRCUITS = {"circuit": ("circuit", "o"), "naive": ("naive circuit", "D"), "two_nodes": ("two strongest nodes", "^")}


def completeness(table: pd.DataFrame) -> Figure:
    """The circuit against the model, the same part taken out of both."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.5), sharex=True, sharey=True)
    classes = table[table["kind"] == "class"]
    for circuit, (_, marker) in CIRCUITS.items():
        part = classes[classes["circuit"] == circuit]
        faces = [COLOURS.get(kind, "white") for kind in part["removed"]]
        edges = [COLOURS.get(kind, "black") for kind in part["removed"]]
        left.scatter(part["f_circuit"], part["f_model"], c=faces, edgecolors=edges, marker=marker, s=26)
    for kind, colour in (("random", PALETTE[5]), ("greedy", PALETTE[1])):
        for circuit in ("circuit", "naive"):
            part = table[(table["kind"] == kind) & (table["circuit"] == circuit)]
            face = colour if circuit == "circuit" else "none"
            label = f"{kind} part of the {CIRCUITS[circuit][0]}"
            right.scatter(
                part["f_circuit"],
                part["f_model"],
                s=16,
                facecolors=face,
                edgecolors=colour,
                linewidths=0.8,
                label=label,
            )
    both = table[["f_circuit", "f_model"]].to_numpy()
    line = [min(0.0, both.min()), both.max()]
    for axes in (left, right):
        axes.plot(line, line, color="0.7", linewidth=0.8, zorder=0)
        axes.set_xlabel("circuit without the part, logits")
    left.set_ylabel("model without the part, logits")
    left.set_title("classes taken out", loc="left")
    right.set_title("random and greedy parts taken out", loc="left")
    present = [kind for kind in COLOURS if kind in set(classes["removed"])]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[kind], label=kind.replace("_", " ")) for kind in present
    ]
    handles.append(Line2D([], [], marker="o", linestyle="", markerfacecolor="white", color="black", label="nothing"))
    handles += [
        Line2D([], [], marker=marker, linestyle="", color="0.5", label=f"shape: {name}")
        for name, marker in CIRCUITS.values()
    ]
    figure.legend(
        handles=handles + right.get_legend_handles_labels()[0], loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def minimality(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """What each node of the circuit is worth."""
    shown = table.sort_values("minimality", ascending=False).reset_index(drop=True).head(PRINTED_NODES)
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 2.4))
    axes.bar(shown.index, 100 * shown["minimality"], color=[COLOURS[kind] for kind in shown["class"]])
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xticks(shown.index, _labels(shown), rotation=90)
    axes.set_ylabel("change of F, % of F(M)")
    present = [kind for kind in COLOURS if kind in set(shown["class"])]
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[kind], label=kind.replace("_", " ")) for kind in present]
    axes.legend(handles=handles, frameon=False, ncols=3)
    return figure, shown


def grid(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Faithfulness under every choice of ablation, nodes beside edges: above the circuit is kept, below it is out."""
    left_in = (table["set"] == "complement") == (table["direction"] == "destroy")
    what = np.select(
        [table["direction"] == "destroy", left_in], [np.where(left_in, "kept", "out"), "put back"], "not put back"
    )
    few = [f" ({group} prompts)" if group not in ("all", "nan") else "" for group in table["prompts"].astype(str)]
    table["label"] = table["ablation"] + few + ", " + what + ", " + table["positions"]
    table["kept"] = left_in.astype(int)
    shown = table.sort_values("kept", ascending=False, kind="stable").reset_index(drop=True)
    rows = {label: float(row) for row, label in enumerate(shown["label"].unique())}
    border = len(set(shown.loc[shown["kept"] == 1, "label"])) - 0.5
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 4.6), sharex=True, sharey=True)
    for axes, component in zip(panels, ("nodes", "edges"), strict=True):
        part = shown[shown["component"] == component]
        at, middle = part["label"].map(rows), part["median_of_ratios"]
        reach = [middle - part["quartile_low"], part["quartile_high"] - middle]
        axes.errorbar(middle, at, xerr=reach, fmt="|", color="0.55", label="median of ratios, quartiles")
        for name, marker, colour in (("ratio_of_averages", "o", PALETTE[0]), ("average_of_ratios", "D", PALETTE[1])):
            _mark(axes, part[name], at, name.replace("_", " "), marker, colour)
        axes.axhline(border, color="0.4", linewidth=0.8)
        for value in (0, 1):
            axes.axvline(value, color="0.7", linewidth=0.8, zorder=0)
        axes.set_xlabel("share of the logit difference")
        axes.set_title(component, loc="left")
    panels[0].set_xlim(-LIMITS[0], LIMITS[1])
    panels[0].set_yticks(list(rows.values()), list(rows))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure, shown


def _mark(axes: Axes, values: pd.Series, at: pd.Series, label: str, marker: str, colour: str) -> None:
    """Points; those beyond the limits stand at the edge with their number."""
    low, high = 0.1 - LIMITS[0], LIMITS[1] - 0.1
    inside = values.clip(low, high)
    axes.scatter(inside, at, marker=marker, s=14, color=colour, label=label, zorder=3)
    for row in values.index[inside != values]:
        number = f"{values[row]:.1f}".replace("-", "\N{MINUS SIGN}")
        place, side = (low + 0.08, "left") if values[row] < 0 else (high - 0.08, "right")
        axes.text(place, at[row] - 0.3, number, ha=side, va="center", fontsize=5.5, color=colour)


def _labels(table: pd.DataFrame) -> list[str]:
    places = {"s1_next": "S1+1", "s2": "S2", "end": "END"}
    rows = zip(table["layer"], table["head"], table["place"], strict=True)
    return [f"{layer}.{head} {places[place]}" for layer, head, place in rows]
