"""Figures of loss by path order, copying heads, and the strongest skip trigrams of one layer."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

MODELS = {
    "text_one_layer": "1 layer, text",
    "text_two_layers": "2 layers, text",
    "one_layer": "1 layer, synthetic",
    "two_layers": "2 layers, synthetic",
}


def path_orders(frame: pd.DataFrame, eigenvalues: pd.DataFrame) -> Figure:
    """Left: loss when only paths of at most so many heads count. Right: OV eigenvalue score of every head of one
    layer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.5), width_ratios=(3, 2))
    shown = [name for name in MODELS if name in set(frame["model"])]
    width = 0.8 / (1 + frame["order"].max())
    for order in sorted(frame["order"].unique()):
        label = f"up to order {order}" if order else "direct path only"
        for i, name in enumerate(shown):
            values = frame[(frame["model"] == name) & (frame["order"] == order)]["loss"]
            if not values.empty:
                place = i + width * (order - 0.5 * frame[frame["model"] == name]["order"].max())
                left.bar(place, values.mean(), 0.9 * width, color=PALETTE[order], alpha=0.8, label=label)
                left.plot([place] * len(values), values, "o", color="0.2", markersize=1.5)
                label = "_"
    left.set_xticks(range(len(shown)), [MODELS[name].replace(", ", "\n") for name in shown])
    left.set_ylabel("loss (nats)")
    left.legend(frameon=False)
    steps = sorted(eigenvalues["step"].unique())
    for i, step in enumerate(steps):
        one = eigenvalues[eigenvalues["step"] == step]
        right.plot(
            i + 0.06 * (one["seed"] - one["seed"].mean()), one["ov_eigenvalues"], "o", color=PALETTE[i], markersize=3
        )
    right.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
    right.set_xticks(range(len(steps)), ["before training", "end of training"][: len(steps)])
    right.set(ylabel="OV eigenvalue score", title="heads of 1 layer, text", xlim=(-0.5, len(steps) - 0.5))
    return figure


def skip_trigrams(table: pd.DataFrame) -> Figure:
    """A table: head, source ... present token -> raised next token."""
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH * 0.7, 0.19 * len(table) + 0.4))
    ax.axis("off")
    rows = [
        [str(row["head"]), *(_visible(row[what]) for what in ("source", "present", "next")), f"{row['score']:.1f}"]
        for _, row in table.iterrows()
    ]
    columns = ["head", "source ...", "present token", "raised token", "score"]
    drawn = ax.table(rows, colLabels=columns, loc="center", cellLoc="left", colLoc="left", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    for (row, _), cell in drawn.get_celld().items():
        cell.set_edgecolor("0.8")
        if row == 0:
            cell.set_text_props(weight="bold")
    return figure


def _visible(text: object) -> str:
    """Spaces and line ends that can be seen; dollar signs start no formula."""
    marked = str(text).replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7")
    return "".join(char if char.isprintable() else "?" for char in marked).replace("$", r"\$")
