"""Figure of the circuit: its heads by class, layer and position, and an arrow for what each was measured to change."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from common.core.figures import PAGE_WIDTH
from replications.ioi_circuit.verification_figures import COLOURS, PRINTED_NODES

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
