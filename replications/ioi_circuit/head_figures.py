"""Figures of heads: direct path, path patching, where movers attend, activation patching."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE
from replications.ioi_circuit.nodes import FURTHER_RECEIVERS, PLACE_OF_RECEIVER

PANELS = {"difference": "logit(IO) \N{MINUS SIGN} logit(S)", "logit_io": "logit(IO)", "logit_s": "logit(S)"}
DIRECT_WRITTEN_FROM = 5.0  # percent: smaller effects stay without a number
STRONGEST = 12
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
CLASS_COLOURS = {"name_mover": PALETTE[0], "negative": PALETTE[1], "s_suppressing": PALETTE[2], "unclassified": "0.6"}
SWEEP_WRITTEN_FROM = 2.0  # percent: smaller effects stay without a number
DIRECTIONS = {"noising": "noising", "denoising": "denoising"}
KINDS = {"resid": "residual stream", "attn": "attention output", "mlp": "MLP output"}
PLACE_LABELS = {"io": "IO", "s1": "S1", "s1_next": "S1+1", "s2": "S2", "end": "END"}
PATCH_WRITTEN_FROM = 8.0  # percent: smaller effects stay without a number


def heat_map(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effect of every head on both logits and on their difference."""
    shown = table[table["partner"] == "abc"]
    limit = float(shown["percent"].abs().max())
    n_layers = shown["layer"].max() + 1
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 1.4 + 0.125 * n_layers), sharey=True)
    for axes, (quantity, title) in zip(panels, PANELS.items(), strict=True):
        grid = shown[shown["quantity"] == quantity].pivot(index="layer", columns="head", values="percent").to_numpy()
        image = _heat_map(axes, grid, limit, DIRECT_WRITTEN_FROM, fontsize=5.5, signed=True)
        axes.set_xticks(range(grid.shape[1]))
        axes.set_yticks(range(grid.shape[0]))
        axes.set_title(f"effect on {title}", loc="left")
        axes.set_xlabel("head")
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.7, pad=0.015)
    bar.set_label("change, % of the mean logit difference")
    return figure, shown


def strongest_heads(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left: with the control. Right: effects on the two logits apart."""
    ranked = table[(table["partner"] == "abc") & (table["quantity"] == "difference")]
    chosen = ranked.reindex(ranked["percent"].abs().sort_values(ascending=False).index[:STRONGEST])
    chosen = chosen.sort_values("percent")[["layer", "head"]].reset_index(drop=True)
    chosen["rank"] = chosen.index
    shown = table.merge(chosen, on=["layer", "head"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.2), sharey=True, width_ratios=[1.2, 1])
    for partner, colour, label in (
        ("abc", PALETTE[0], "from an ABC prompt: roles removed"),
        ("nouns_redrawn", PALETTE[1], "control, other nouns: roles kept"),
    ):
        part = shown[(shown["partner"] == partner) & (shown["quantity"] == "difference")].sort_values("rank")
        _points(left, part, 0.0, colour, label)
    for quantity, colour, shift in (("logit_io", PALETTE[0], -0.15), ("logit_s", PALETTE[4], 0.15)):
        part = shown[(shown["partner"] == "abc") & (shown["quantity"] == quantity)].sort_values("rank")
        _points(right, part, shift, colour, PANELS[quantity])
    left.set_yticks(
        chosen["rank"], [f"{layer}.{head}" for layer, head in zip(chosen["layer"], chosen["head"], strict=True)]
    )
    left.set_ylim(len(chosen) - 0.5, -0.5)
    left.set_ylabel("head (layer.head)")
    left.set_title(f"{PANELS['difference']}, two replacements", loc="left")
    right.set_title("the two names apart (ABC)", loc="left")
    for axes in (left, right):
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xlabel("change, % of the mean logit difference")
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1, frameon=False)
    return figure, shown.sort_values(["rank", "partner", "quantity"])


def _points(axes: Axes, part: pd.DataFrame, shift: float, colour: str, label: str) -> None:
    reach = [part["percent"] - part["ci_low"], part["ci_high"] - part["percent"]]
    axes.errorbar(part["percent"], part["rank"] + shift, xerr=reach, fmt="o", color=colour, label=label, markersize=4)


def sweeps(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effect of every head on each receiver set."""
    n_layers = int(table["layer"].max()) + 1
    figure, panels = plt.subplots(1, len(TITLES), figsize=(PAGE_WIDTH, 1.9 + 0.12 * n_layers), sharey=True)
    limit = float(np.nanquantile(table[list(TITLES)].abs().to_numpy(), 0.999))
    for axes, (receiver, title) in zip(panels, TITLES.items(), strict=True):
        grid = table.pivot(index="layer", columns="head", values=receiver).to_numpy()
        image = _heat_map(axes, grid, limit, SWEEP_WRITTEN_FROM, fontsize=4.0)
        axes.set_title(title, loc="left", fontsize=6.5)
        axes.set_xlabel("head")
        axes.set_xticks(range(0, grid.shape[1], 2))
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


def streams(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effects by layer and position, noising above and denoising below."""
    shown = table[table["kind"] != "head"]
    rows = shown["layer"].nunique()
    figure, panels = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 1.6 + 0.19 * rows), width_ratios=[5, 3, 3])
    for axes_row, direction in zip(panels, DIRECTIONS, strict=True):
        for axes, (kind, title) in zip(axes_row, KINDS.items(), strict=True):
            part = shown[(shown["direction"] == direction) & (shown["kind"] == kind)]
            grid = part.pivot(index="layer", columns="place", values="percent")
            grid = grid[[place for place in PLACE_LABELS if place in grid]]
            image = _patched(axes, grid, [PLACE_LABELS[place] for place in grid.columns])
            axes.set_title(f"{direction}: {title}", loc="left", fontsize=7)
        axes_row[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.015, extend="both")
    bar.set_label("effect on the logit difference, %")
    return figure, shown


def patched_heads(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effects by layer and head at S2 and END."""
    shown = table[table["kind"] == "head"]
    n_layers = shown["layer"].nunique()
    figure, panels = plt.subplots(1, 4, figsize=(PAGE_WIDTH, 1.3 + 0.115 * n_layers), sharey=True)
    pairs = [("noising", "s2"), ("noising", "end"), ("denoising", "s2"), ("denoising", "end")]
    for axes, (direction, place) in zip(panels, pairs, strict=True):
        part = shown[(shown["direction"] == direction) & (shown["place"] == place)]
        grid = part.pivot(index="layer", columns="head", values="percent")
        image = _patched(axes, grid, [str(head) for head in grid.columns], fontsize=4.5)
        axes.set_title(f"{direction}, {PLACE_LABELS[place]}", loc="left", fontsize=7)
        axes.set_xlabel("head")
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.015, extend="both")
    bar.set_label("effect on the logit difference, %")
    return figure, shown


def _patched(axes: Axes, grid: pd.DataFrame, columns: list[str], fontsize: float = 5.0) -> AxesImage:
    image = _heat_map(axes, grid.to_numpy(), 100.0, PATCH_WRITTEN_FROM, fontsize=fontsize, signed=True)
    every = max(1, len(grid) // 10)
    axes.set_yticks(range(0, len(grid), every), [str(layer) for layer in grid.index[::every]])
    step = max(1, len(columns) // 5) if len(columns) > 6 else 1
    axes.set_xticks(range(0, len(columns), step), columns[::step])
    return image


def _heat_map(
    axes: Axes, grid: np.ndarray, limit: float, written_from: float, *, fontsize: float, signed: bool = False
) -> AxesImage:
    """Layers by columns; effects of at least `written_from` in size have their number, with a plus where `signed`."""
    image = axes.imshow(grid, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    for row, column in zip(*np.nonzero(np.abs(grid) >= written_from), strict=True):
        value = grid[row, column]
        text = (f"{value:+.0f}" if signed else f"{value:.0f}").replace("-", "\N{MINUS SIGN}")
        colour = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=colour)
    axes.tick_params(length=0, labelsize=6)
    axes.spines[:].set_visible(False)
    return image
