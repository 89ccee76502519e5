"""Figures of heads: direct path, path patching, where movers attend, how stable the classes are."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER, STABLE

PANELS = {"difference": "logit(IO) \N{MINUS SIGN} logit(S)", "logit_io": "logit(IO)", "logit_s": "logit(S)"}
BASELINES = {
    "difference": ("abc", "IO \N{MINUS SIGN} S, from ABC"),
    "flip": ("roles_flipped", "IO \N{MINUS SIGN} S, S2 \N{LEFTWARDS ARROW} IO, half"),
    "logit_io": ("abc", "logit(IO), from ABC"),
    "logit_s": ("abc", "logit(S), from ABC"),
}
"""Panels of the heat map: quantity, partner and title."""
DIRECT_WRITTEN_FROM = 5.0  # percent: smaller effects stay without a number
DIRECT_SHOWN_FROM = 1.0  # percent: layers below the first head of this effect are left out
STRONGEST = 12
TITLES = {
    "logits": "to the logits\nat END",
    "mover_queries": "to the movers'\nqueries at END",
    "inhibition_values": "to S-heads'\nvalues at S2",
    "inhibition_keys": "to S-heads'\nkeys at S2",
    "induction_keys": "to induction\nkeys at S1+1",
}
SHORT = {
    "logits": "logits",
    "mover_queries": "queries",
    "inhibition_values": "values S2",
    "inhibition_keys": "keys S2",
    "induction_keys": "keys S1+1",
}
SCORES = {
    "random_previous": "one token back",
    "random_duplicate": "same token before",
    "random_induction": "token after the same before",
}
CLASS_COLOURS = {
    "name_mover": PALETTE[0], "negative": PALETTE[1], "s_suppressing": PALETTE[2], "s_copying": PALETTE[3],
    "end_reader": PALETTE[4], "unclassified": "0.6", "unstable": "0.8",
}  # fmt: skip
SWEEP_WRITTEN_FROM = 2.0  # percent: smaller effects stay without a number


def heat_map(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Effect of the heads on the difference under both baselines, and on both logits, from the first layer on in which
    one reaches `DIRECT_SHOWN_FROM` percent."""
    shown = table[table["partner"].isin(["abc", "roles_flipped"])]
    limit = float(shown["percent"].abs().max())
    first = int(shown.loc[shown["percent"].abs() >= min(DIRECT_SHOWN_FROM, limit), "layer"].min())
    layers = range(first, int(shown["layer"].max()) + 1)
    figure, panels = plt.subplots(1, len(BASELINES), figsize=(PAGE_WIDTH, 1.3 + 0.19 * len(layers)), sharey=True)
    for axes, (quantity, (partner, title)) in zip(panels, BASELINES.items(), strict=True):
        part = shown[(shown["partner"] == partner) & (shown["quantity"] == quantity.replace("flip", "difference"))]
        grid = part.pivot(index="layer", columns="head", values="percent").loc[first:].to_numpy()
        image = _heat_map(axes, grid, limit, DIRECT_WRITTEN_FROM, fontsize=5.0, signed=True)
        axes.set_xticks(range(grid.shape[1]))
        axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        axes.set_title(title, loc="left", fontsize=7)
        axes.set_xlabel("head")
    panels[0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, pad=0.015)
    bar.set_label("change, % of the mean\nlogit difference")
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
    return figure, table[["layer", "head", *columns]]


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


def stability(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Every head with a counted effect: effects under both baselines, and how often its class holds."""
    parts = []
    for receiver in PLACE_OF_RECEIVER:
        counted = table[table[f"{receiver}_class"].notna() & (table[f"{receiver}_class"] != "")]
        parts.append(
            pd.DataFrame(
                {
                    "receivers": SHORT[receiver],
                    "head": counted["layer"].astype(str) + "." + counted["head"].astype(str),
                    "class": counted[f"{receiver}_class"],
                    "stability": counted[f"{receiver}_stability"],
                    "abc": counted[receiver],
                    "flip": counted[f"{receiver}_flip"],
                }
            )
        )
    every = pd.concat(parts, ignore_index=True)
    largest = every.reindex(every["abc"].abs().sort_values(ascending=False, kind="stable").index)
    shown = largest.drop_duplicates(["head", "class"]).sort_index().reset_index(drop=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.2 + 0.17 * len(shown)), sharey=True)
    colours = [CLASS_COLOURS.get(kind, PALETTE[5]) for kind in shown["class"]]
    left.barh(shown.index, shown["stability"], color=colours)
    left.axvline(STABLE, color="0.4", linestyle="--", linewidth=0.8)
    left.set_xlabel("share of resamples with this class")
    words = shown["head"] + " " + shown["class"].str.replace("_", " ") + " (" + shown["receivers"] + ")"
    left.set_yticks(shown.index, words, fontsize=5)
    left.set_ylim(len(shown) - 0.4, -0.6)
    right.scatter(shown["abc"], shown.index, s=16, color=PALETTE[0], label="from ABC prompts, exact")
    right.scatter(
        shown["flip"],
        shown.index,
        s=16,
        facecolors="none",
        edgecolors=PALETTE[1],
        label="S2 \N{LEFTWARDS ARROW} IO, half",
    )
    right.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    right.set_xlabel("effect, % of the logit difference")
    for axes in (left, right):
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, shown


def sensitivity(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Direct effect of every head as the model is used, against the same under each other choice."""
    choices = {"token_in_front": "a token in front", "bfloat16_weights": "weights rounded to bfloat16"}
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.0), sharex=True, sharey=True)
    for axes, (choice, title) in zip(panels, choices.items(), strict=True):
        axes.axline((0, 0), slope=1, color="0.7", linewidth=0.8, zorder=0)
        axes.scatter(table["as_used"], table[choice], s=9, color=PALETTE[0], linewidths=0)
        named = table[table[["as_used", choice]].abs().max(axis=1) >= DIRECT_WRITTEN_FROM].sort_values("as_used")
        for place, (_, row) in enumerate(named.iterrows()):  # names of neighbours stand on both sides of the line
            beside, side = ((3, -7), "left") if place % 2 else ((-3, 3), "right")
            at = (row["as_used"], row[choice])
            axes.annotate(row["head"], at, beside, textcoords="offset points", fontsize=5.5, ha=side)
        axes.set_title(title, loc="left")
        axes.set_xlabel("effect as the model is used, %")
    panels[0].set_ylabel("effect under this choice, %")
    return figure, table


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
