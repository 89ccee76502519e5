"""Figures of the circuit: attention of its two heads, weights, ablations, and paths through small models.

Counterparts: Elhage et al. 2021, composition, eigenvalue scores, term importance and skip trigrams; Olsson et al. 2022,
pattern-preserving ablation.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.core.figures import PAGE_WIDTH, PALETTE, SEQUENTIAL, Picture
from replications.induction_heads.training_figures import ARM_COLOURS, ARM_LABELS, arms_in

PANELS = {
    "composition_K": "K-composition",
    "composition_Q": "Q-composition",
    "composition_V": "V-composition",
    "ov_eigenvalues": "OV eigenvalues",
    "qk_eigenvalues": "QK eigenvalues",
}
GROUPS = {
    "induction": "induction heads",
    "previous": "previous-token heads",
    "others": "as many heads of lowest prefix score",
    "random": "random heads of the same layers",
    "other_first": "as many other heads of the first layer",
}
MODELS = {
    "text_one_layer": "1 layer, text",
    "text_two_layers": "2 layers, text",
    "one_layer": "1 layer, synthetic",
    "two_layers": "2 layers, synthetic",
}


def mechanism(frame: pd.DataFrame) -> Picture:
    """Attention of the two heads; letters are tokens; the second copy is where the loss is low."""
    roles = frame["role"].unique()
    figure, axes = plt.subplots(1, len(roles), figsize=(PAGE_WIDTH, 3.7))
    for ax, role in zip(axes, roles, strict=True):
        one = frame[frame["role"] == role]
        grid = one.pivot(index="query", columns="key", values="attention")
        names = one.drop_duplicates("query").sort_values("query")["query_token"].tolist()
        mesh = ax.imshow(grid, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks(range(len(names)), names, fontsize=4.5)
        ax.set_yticks(range(len(names)), names, fontsize=4.5)
        ax.set(xlabel="attended token", title=f"{role} {one['layer'].iloc[0]}.{one['head'].iloc[0]}")
        seen = {name: names.index(name) for name in names}
        for query, name in enumerate(names):
            if seen[name] < query:  # a repeated token: mark the position after its earlier copy
                ax.add_patch(
                    Rectangle((seen[name] + 0.5, query - 0.5), 1, 1, fill=False, color=PALETTE[1], linewidth=0.6)
                )
    axes[0].set_ylabel("present token")
    figure.colorbar(mesh, ax=axes.tolist(), label="attention", shrink=0.8)
    return figure, frame


def circuits(frame: pd.DataFrame) -> Picture:
    """Every head of the later layers: composition and eigenvalue scores against its prefix score, end of training."""
    last = frame[(frame["step"] == frame.groupby("arm")["step"].transform("max")) & (frame["layer"] > 0)]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.1), sharex=True)
    for ax, (column, label) in zip(axes, PANELS.items(), strict=True):
        for name in arms_in(last["arm"].tolist()):
            one = last[last["arm"] == name]
            style = {"color": ARM_COLOURS[name], "label": ARM_LABELS[name], "markersize": 2, "alpha": 0.6}
            ax.plot(one["prefix"], one[column], "o", **style)
        ax.set(xlabel="prefix score", title=label)
    for ax in axes[:3]:
        ax.set_ylim(0, 1.05 * last[list(PANELS)[:3]].max().max())
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, last


def ablations(frame: pd.DataFrame) -> Picture:
    """Left: gain left at the end of training per group and kind of ablation. Right: the same along training."""
    arms = arms_in(frame["arm"].tolist())
    figure, axes = plt.subplots(2, len(arms), figsize=(PAGE_WIDTH, 4.4), sharey=True, squeeze=False)
    for (top, bottom), name in zip(axes.T, arms, strict=True):
        one = frame[frame["arm"] == name]
        _bars(top, one[one["step"] == one["step"].max()])
        top.set_title(ARM_LABELS[name], fontsize=7)
        intact = one.groupby("step")["gain"].mean()
        bottom.plot(intact.index, intact, color="0.4", linewidth=1.2, label="intact")
        for (group, label), colour in zip(GROUPS.items(), PALETTE, strict=False):
            part = one[(one["group"] == group) & (one["kind"] == "pattern-preserving")]
            mean = part.groupby("step")["gain_without"].mean()
            bottom.plot(
                mean.index, mean, color=colour, linewidth=0.9, marker="o", markersize=2, label=f"without {label}"
            )
        bottom.set_xlabel("step")
    axes[0, 0].set_ylabel("in-context gain (nats)\nend of training")
    axes[1, 0].set_ylabel("in-context gain (nats)\npatterns kept")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, frame


def _bars(ax: Axes, one: pd.DataFrame) -> None:
    """Full (plain) and pattern-preserving (hatched) ablation of every group; dots: seeds; line: intact model."""
    for i, ((group, _), colour) in enumerate(zip(GROUPS.items(), PALETTE, strict=False)):
        for shift, (kind, hatch) in zip((-0.2, 0.2), (("full", None), ("pattern-preserving", "////")), strict=True):
            values = one[(one["group"] == group) & (one["kind"] == kind)]["gain_without"]
            ax.bar(
                i + shift, values.mean(), 0.36, color=colour, alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0
            )
            ax.plot([i + shift] * len(values), values, "o", color="0.2", markersize=1.5)
    ax.axhline(one["gain"].mean(), color="0.4", linewidth=1.0)
    ax.axhline(0, color="0.7", linewidth=0.6)
    ax.set_xticks([])


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
