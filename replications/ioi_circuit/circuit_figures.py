"""Figures of the circuit: size curve, completeness, minimality, ablation grid, and the diagram of its heads.

The diagram shows heads by class, layer and position, and an arrow for what each was measured to change.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

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
    "s_copying": "#b5a000",
    "end_reader": "#4d4d99",
    "unclassified": "0.55",
    "unstable": "0.7",
    "uncounted": "0.8",
}
PRINTED_NODES = 40
LIMITS = (1.5, 2.5)
CIRCUITS = {"circuit": ("circuit", "o"), "naive": ("naive circuit", "D"), "two_heads": ("two strongest heads", "^")}
COLUMNS = {"s1_next": (0.0, "S1+1"), "s2": (0.8, "S2"), "end": (2.0, "END")}
LOGITS = 2.75  # place of the box
READERS = {
    "inhibition": ("s_inhibition", "s_suppressing"),
    "mover_queries": ("name_mover", "s_suppressing"),
    "induction_keys": ("induction",),
}
JOINTS = {"inhibition": (1.35, "values or keys"), "mover_queries": (1.68, "queries"), "induction_keys": (0.4, "keys")}
READ_AS = {"inhibition_values": "inhibition", "inhibition_keys": "inhibition"}
OPPOSING = (0.0, (2.2, 1.2))  # dashes
INK = "0.25"  # of arrows; colours are classes
BOX = 0.14  # half the width of a head


def curve(table: pd.DataFrame, metrics: dict[str, Metric]) -> Figure:
    """Faithfulness against size, beside the two strongest nodes."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH * 1.3, 2.8))
    for name, colour in (("discovery", PALETTE[5]), ("verification", PALETTE[0])):
        axes.plot(table["heads"], table[name], "o-", color=colour, label=f"{name} half", markersize=3.5)
    two_heads, size = metrics["circuit_faithfulness"].control("two_heads"), metrics["circuit_heads_share"]
    heads = size.value * size.n
    reach = [[two_heads.value - two_heads.ci_low], [two_heads.ci_high - two_heads.value]]
    axes.errorbar([2], [two_heads.value], yerr=reach, fmt="s", color=PALETTE[1], label="two strongest heads alone")
    axes.axvline(heads, color="0.7", linestyle="--", linewidth=0.8, label="chosen circuit")
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"heads in the circuit (of {int(table['of_heads'].iloc[0])})")
    axes.set_ylabel("faithfulness F(C) / F(M)")
    axes.legend(frameon=False)
    return figure


def completeness(table: pd.DataFrame) -> Figure:
    """The circuits against the model, the same class taken out of both."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH * 1.3, 3.6))
    for circuit, (_, marker) in CIRCUITS.items():
        part = table[table["circuit"] == circuit]
        faces = [COLOURS.get(kind, "white") for kind in part["removed"]]
        edges = [COLOURS.get(kind, "black") for kind in part["removed"]]
        axes.scatter(part["f_circuit"], part["f_model"], c=faces, edgecolors=edges, marker=marker, s=26)
    _diagonal(axes, table)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[kind], label=kind.replace("_", " "))
        for kind in COLOURS
        if kind in set(table["removed"])
    ]
    handles.append(Line2D([], [], marker="o", linestyle="", markerfacecolor="white", color="black", label="nothing"))
    handles += [
        Line2D([], [], marker=marker, linestyle="", color="0.5", label=f"shape: {name}")
        for name, marker in CIRCUITS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def parts(table: pd.DataFrame) -> Figure:
    """The same for random and greedily grown parts."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH * 1.3, 3.4))
    for kind, colour in (("random", PALETTE[5]), ("greedy", PALETTE[1])):
        for circuit in ("circuit", "naive"):
            part = table[(table["kind"] == kind) & (table["circuit"] == circuit)]
            face = colour if circuit == "circuit" else "none"
            label = f"{kind} part of the {CIRCUITS[circuit][0]}"
            axes.scatter(
                part["f_circuit"],
                part["f_model"],
                s=16,
                label=label,
                facecolors=face,
                edgecolors=colour,
                linewidths=0.8,
            )
    _diagonal(axes, table)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _diagonal(axes: Axes, table: pd.DataFrame) -> None:
    both = table[["f_circuit", "f_model"]].to_numpy()
    line = [min(0.0, both.min()), both.max()]
    axes.plot(line, line, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("circuit without the part, logits")
    axes.set_ylabel("model without the part, logits")


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


def diagram(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Positions from left to right, layers from bottom to top; one arrow for each head, to all heads that read it."""
    counted = table[table["class"] != "uncounted"]
    shown = counted.head(PRINTED_NODES).reset_index(drop=True)
    shown["x"] = [COLUMNS[place][0] for place in shown["place"]]
    shown["y"], ticks = _heights(shown)
    top = max([1.0, *shown["y"]])
    largest = float(shown["effect"].abs().max())
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 1.5 + 0.23 * (top + 2)))
    direct = shown[shown["receiver"] == "logits"]
    if len(direct):
        middle, spread = float(direct["y"].mean()), 0.3 * (direct["y"] - direct["y"].mean())
        height = max(0.5, float(spread.abs().max()) + 0.3)
        box = Rectangle((LOGITS, middle - height), 0.26, 2 * height, facecolor="0.92", edgecolor=INK, zorder=1)
        axes.add_patch(box)
        axes.text(LOGITS + 0.13, middle, "logits", ha="center", va="center", fontsize=8)
        for (_, sender), place in zip(direct.iterrows(), middle + spread, strict=True):
            _arrow(axes, (sender["x"] + BOX, sender["y"]), (LOGITS, place), sender["effect"], largest, "-|>")
    for name, classes in READERS.items():
        senders = shown[shown["receiver"].replace(READ_AS) == name]
        readers = shown[shown["class"].isin(classes) & (shown["layer"] > senders["layer"].min())]
        if len(senders) and len(readers):
            _through_joint(axes, name, senders, readers, largest)
    for _, node in shown.iterrows():
        face = {"boxstyle": "round,pad=0.22", "facecolor": "white", "edgecolor": COLOURS[str(node["class"])]}
        words = f"{node['layer']}.{node['head']}: {_percent(node['effect'])}"
        axes.text(node["x"], node["y"], words, ha="center", va="center", fontsize=6, bbox=face | {"linewidth": 1.6})
    axes.set_xticks(*zip(*COLUMNS.values(), strict=True))
    axes.set(xlim=(-0.3, LOGITS + 0.35), ylim=(-0.8, top + 0.8), ylabel="layer (only those with a node)")
    axes.set_yticks(list(ticks.values()), [str(layer) for layer in ticks])
    _legend(figure, shown, len(table) - len(shown))
    return figure, shown


def _heights(shown: pd.DataFrame) -> tuple[pd.Series, dict[int, float]]:
    """Height of each node, the larger effect above, and of each layer's tick; nodes of one layer stand in a stack."""
    heights: dict[object, float] = {}
    ticks, base = {}, 0.0
    for layer, same in shown.groupby("layer"):
        rows = int(same.groupby("place").size().max())
        for _, stack in same.groupby("place"):
            first = base + (rows - len(stack)) / 2
            heights |= {node: first + len(stack) - 1 - row for row, node in enumerate(stack.index)}
        ticks[int(str(layer))] = base + (rows - 1) / 2
        base += rows + 0.25
    return pd.Series(heights, dtype=float), ticks


def _through_joint(axes: Axes, name: str, senders: pd.DataFrame, readers: pd.DataFrame, largest: float) -> None:
    """Arrows of the senders to one point, and thin lines from there to the heads that read them."""
    x, word = JOINTS[name]
    y = (float(senders["y"].mean()) + float(readers["y"].mean())) / 2
    for _, sender in senders.iterrows():
        side = BOX if x > sender["x"] else -BOX
        _arrow(axes, (sender["x"] + side, sender["y"]), (x, y), sender["effect"], largest, "-")
    for _, reader in readers.iterrows():
        side = BOX if x > reader["x"] else -BOX
        line = {"arrowstyle": "-|>", "color": "0.55", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 1, "mutation_scale": 6}
        axes.annotate("", (reader["x"] + side, reader["y"]), (x, y), arrowprops=line, zorder=0)
    axes.plot(x, y, "o", color=INK, markersize=4, zorder=1)
    behind = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    axes.annotate(word, (x, y), (-5, 4), textcoords="offset points", ha="right", va="bottom", fontsize=6.5, bbox=behind)


def _arrow(
    axes: Axes, begin: tuple[float, float], end: tuple[float, float], effect: float, largest: float, shape: str
) -> None:
    width = 0.6 + 4 * abs(effect) / largest
    style = "-" if effect < 0 else OPPOSING
    axes.add_patch(
        FancyArrowPatch(
            begin, end, arrowstyle=shape, mutation_scale=5 + 2 * width, linewidth=width, linestyle=style, color="0.4",
            shrinkA=1, shrinkB=0, zorder=0, capstyle="butt",
        )
    )  # fmt: skip


def _percent(effect: float) -> str:
    """A size, two digits for small ones."""
    return f"{abs(effect):.0f} %" if abs(effect) >= 9.95 else f"{abs(effect):.1f} %"


def _legend(figure: Figure, shown: pd.DataFrame, omitted: int) -> None:
    present = [kind for kind in COLOURS if kind in set(shown["class"])]
    handles = [Line2D([], [], color=COLOURS[kind], linewidth=3, label=kind.replace("_", " ")) for kind in present]
    handles.append(Line2D([], [], color=INK, linewidth=1.5, label="favours the answer"))
    handles.append(Line2D([], [], color=INK, linewidth=1.5, linestyle=OPPOSING, label="opposes it"))
    handles.append(Line2D([], [], linestyle="", label=f"not drawn: {omitted} of {omitted + len(shown)} nodes"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
