"""Figures of path patching: heat maps of effects and scores, attention against contribution, where movers look."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE
from replications.ioi_circuit.labels import FURTHER_RECEIVERS, PLACE_OF_RECEIVER

TITLES = {
    "logits": "to the logits\nat END",
    "mover_queries": "to the movers'\nqueries at END",
    "inhibition_values": "to S-heads'\nvalues at S2",
    "inhibition_keys": "to S-heads'\nkeys at S2",
    "induction_keys": "to induction\nkeys at S1+1",
    "inhibition_queries": "to S-inhibition\nqueries at END",
    "induction_queries": "to induction\nqueries at S2",
}
SCORES = {
    "random_previous": "one token back",
    "random_duplicate": "same token before",
    "random_induction": "token after the same before",
}
NAMES = {"io": "IO", "s1": "S1", "s2": "S2"}
CLASS_COLOURS = {
    "name_mover": PALETTE[0],
    "negative": PALETTE[1],
    "s_suppressing": PALETTE[2],
    "unclassified": "0.6",
}
WRITTEN_FROM = 2.0  # percent: smaller effects stay without a number


def sweeps(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effect of every head on each receiver set."""
    n_layers = int(table["layer"].max()) + 1
    figure, panels = plt.subplots(1, len(TITLES), figsize=(PAGE_WIDTH, 1.9 + 0.12 * n_layers), sharey=True)
    limit = float(np.quantile(table[list(TITLES)].abs().to_numpy(), 0.999))
    for axes, (receiver, title) in zip(panels, TITLES.items(), strict=True):
        grid = table.pivot(index="layer", columns="head", values=receiver).to_numpy()
        image = axes.imshow(grid, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
        for layer, head in zip(*np.nonzero(np.abs(grid) >= WRITTEN_FROM), strict=True):
            text = f"{grid[layer, head]:.0f}".replace("-", "\N{MINUS SIGN}")
            colour = "white" if abs(grid[layer, head]) > 0.6 * limit else "black"
            axes.text(head, layer, text, ha="center", va="center", fontsize=4, color=colour)
        axes.set_title(title, loc="left", fontsize=6.5)
        axes.set_xlabel("head")
        axes.tick_params(length=0, labelsize=6)
        axes.set_xticks(range(0, grid.shape[1], 2))
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.5, aspect=40, pad=0.01, extend="both")
    bar.set_label("change of logit(IO) \N{MINUS SIGN} logit(S), % of its mean")
    columns = [f"{name}{end}" for name in PLACE_OF_RECEIVER for end in ("", "_io", "_s", "_class")]
    return figure, table[["layer", "head", *columns, *FURTHER_RECEIVERS]]


def random_tokens(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Attention of every head on repeated random tokens, at three offsets."""
    n_layers = int(table["layer"].max()) + 1
    figure, panels = plt.subplots(1, len(SCORES), figsize=(PAGE_WIDTH, 1.2 + 0.085 * n_layers), sharey=True)
    for axes, (score, title) in zip(panels, SCORES.items(), strict=True):
        grid = table.pivot(index="layer", columns="head", values=score).to_numpy()
        image = axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
        for layer, head in zip(*np.nonzero(grid >= 0.2), strict=True):
            colour = "white" if grid[layer, head] > 0.6 else "black"
            text = f"{grid[layer, head]:.1f}".removeprefix("0")
            axes.text(head, layer, text, ha="center", va="center", fontsize=4.5, color=colour)
        null = table[f"{score}_null"].max()
        axes.set_title(f"{title}\n(best at a wrong offset: {null:.2f})", loc="left", fontsize=7)
        axes.set_xlabel("head")
        axes.tick_params(length=0, labelsize=6)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=panels, shrink=0.7, pad=0.015).set_label("mean attention")
    return figure, table[["layer", "head", *SCORES, *(f"{score}_null" for score in SCORES)]]


def steered(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Where the movers look, and where they look when the S-inhibition heads are patched."""
    heads = list(table["head"].unique())
    figure, panels = plt.subplots(1, max(1, len(heads)), figsize=(PAGE_WIDTH, 2.3), sharey=True, squeeze=False)
    runs = {"before": ("as it is", PALETTE[0]), "after": ("S-inhibition heads patched", PALETTE[1])}
    runs["after_random"] = ("other heads of the same layers patched", "0.7")
    for axes, head in zip(panels[0], heads, strict=False):
        part = table[table["head"] == head].set_index("name").loc[list(NAMES)]
        for shift, (run, (label, colour)) in enumerate(runs.items()):
            axes.bar(np.arange(len(NAMES)) + 0.27 * (shift - 1), part[run], 0.25, color=colour, label=label)
        axes.set_xticks(range(len(NAMES)), list(NAMES.values()))
        axes.set_title(f"{head} {part['class'].iloc[0].replace('_', ' ')}", loc="left", fontsize=7)
    panels[0, 0].set_ylabel("attention from END")
    if not heads:
        table = pd.DataFrame([{"head": "none", "class": "no mover, or no S-inhibition head"}])
        panels[0, 0].text(0.5, 0.5, table["class"].iloc[0], ha="center", transform=panels[0, 0].transAxes)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure, table


def attention(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Attention of the strongest heads against what they write."""
    size = table.groupby("head")["written"].apply(lambda values: values.mean().__abs__())
    strongest = size.sort_values(ascending=False).index[:8]
    shown = table[table["head"].isin(strongest)]
    figure, panels = plt.subplots(2, 4, figsize=(PAGE_WIDTH, 3.8), sharex=True, sharey=True)
    for axes, head in zip(panels.flat, strongest, strict=False):
        _one_head(axes, shown[shown["head"] == head], head)
    for axes in panels.flat[len(strongest) :]:
        axes.set_visible(False)
    figure.supxlabel("attention from END to the name", fontsize=8)
    figure.supylabel("what the head adds to the name's logit", fontsize=8)
    handles = [
        Line2D([], [], marker=marker, linestyle="", color="0.3", label=label)
        for label, marker in (("IO", "o"), ("S (S1 and S2)", "x"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure, shown


def _one_head(axes: Axes, part: pd.DataFrame, head: str) -> None:
    kind = str(part["class"].iloc[0])
    for name, marker in (("IO", "o"), ("S", "x")):
        one = part[part["name"] == name]
        axes.scatter(one["attention"], one["written"], marker=marker, s=12, color=CLASS_COLOURS[kind], alpha=0.8)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_title(f"{head} {kind.replace('_', ' ')}", loc="left", fontsize=7)
