"""Step: draws all figures from the tables of their parts: loss, splitting and universality, then units and logits."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Metric
from replications.monosemanticity.reconstruction import Row, recovered

TWINS = {
    "features": ("latents", PALETTE[0], "-"),
    "neurons": ("neurons", PALETTE[1], "-"),
    "untrained": ("latents, untrained networks", PALETTE[3], "-"),
    "features_null": ("latents, other documents", PALETTE[0], ":"),
    "neurons_null": ("neurons, other documents", PALETTE[1], ":"),
}


def loss(ways: pd.DataFrame, curves: pd.DataFrame, metrics: dict[str, Metric]) -> Picture:
    """Left: training. Right: loss recovered against width, with baselines."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.7))
    for _, own in curves.groupby("seed"):
        left.plot(own["tokens"] / 1000, own["loss"], color=PALETTE[0], linewidth=1)
    model = metrics["ce_model"].value
    for name, line in (("unigram", ":"), ("bigram", "--")):
        left.axhline(model + metrics[f"gain_over_{name}"].value, color="0.4", linestyle=line, label=f"{name} counts")
    left.set(xlabel="thousand tokens", ylabel="held-out cross-entropy, nats")
    left.legend(frameon=False)
    table = _recovered(ways)
    for ax, ablation in ((middle, "zero"), (right, "mean")):
        for kind, label, colour in (
            ("trained", "dictionary", PALETTE[0]),
            ("start", "untrained dictionary", "0.5"),
            ("twin", "dictionary, other starts", PALETTE[5]),
            ("relu", "dictionary, ReLU and L1", PALETTE[4]),
        ):
            own = table[table["kind"] == kind]
            at = own["width"] * {"twin": 1.1, "relu": 1.2}.get(kind, 1.0)
            ax.plot(at, own[ablation], "o", color=colour, markersize=4, alpha=0.7, label=label)
            means = own.groupby("width")[ablation].mean()
            ax.plot(means.index, means, color=colour, linewidth=1)
        for kind, line in (("components", "--"), ("neurons", ":")):
            level = table.loc[table["kind"] == kind, ablation].mean()
            ax.axhline(level, color=PALETTE[1], linestyle=line, label=f"as many {kind}")
        widths = sorted(table.loc[table["kind"] == "trained", "width"].unique())
        ax.set_xscale("log", base=2)
        ax.set_xticks(widths, [str(int(width)) for width in widths])
        ax.minorticks_off()
        ax.set(xlabel="latents", ylabel=f"loss recovered, {ablation} ablation")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure, table


def _recovered(ways: pd.DataFrame) -> pd.DataFrame:
    """Loss recovered of every way that has one."""
    rows: list[dict[str, Any]] = []
    for seed, own in ways.groupby("seed"):
        known: list[Row] = own.to_dict("records")  # type: ignore[assignment]
        for name, value, width in own[["name", "ce", "width"]].itertuples(index=False):
            kind = str(name).split("-")[0].rstrip("0123456789")
            if kind in ("clean", "zero", "mean"):
                continue
            found = {ablation: recovered(known, str(name), ablation) for ablation in ("zero", "mean")}
            rows.append({"seed": seed, "kind": kind, "width": width, "ce": value, **found})
    return pd.DataFrame(rows)


def splitting(nests: pd.DataFrame) -> Picture:
    """How far the firings of a wide latent lie inside those of its parent."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    for (kind, own), colour in zip(nests.groupby("kind", sort=False), (PALETTE[0], "0.5"), strict=True):
        label = {"own parent": "nearest narrow latent", "permuted": "nearest after permuting neurons"}[str(kind)]
        for ax, column in zip(axes, ("cosine", "inside"), strict=True):
            values = np.sort(own[column])
            ax.plot(values, np.linspace(0, 1, len(values)), color=colour, label=label)
    axes[0].set(xlabel="decoder cosine with the narrow latent", ylabel="share of wide latents below")
    axes[1].set(xlabel="share of firings inside its firings", ylabel="share of wide latents below")
    axes[1].legend(frameon=False, loc="lower right")
    return figure, nests


def families(table: pd.DataFrame) -> Figure:
    """Trees from the narrowest to the widest dictionary, with the tokens that explain each latent."""
    widths = sorted(table["width"].astype(int).unique())
    column = {width: place for place, width in enumerate(widths)}
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH, 0.6 + 0.14 * max(8, len(table))))
    height: dict[tuple[int, int], float] = {}
    line = 0.0
    for _, own in table.groupby("family"):
        children: dict[tuple[int, int], list[int]] = {}
        for width, parent, latent in own[["width", "parent", "latent"]].astype(int).to_numpy().tolist():
            children.setdefault((column[width], parent), []).append(latent)
        line = _place(ax, own, children, widths, 0, int(own.iloc[0]["latent"]), line, height) + 0.8
    for place, width in enumerate(widths):
        ax.text(place, -1.0, f"{width} latents", ha="left", va="center", fontsize=8, weight="bold")
    ax.set(xlim=(-0.05, len(widths)), ylim=(line, -1.6))
    ax.axis("off")
    return figure


def _place(
    ax: Any, own: pd.DataFrame, children: dict[tuple[int, int], list[int]], widths: list[int], place: int, latent: int,
    line: float, height: dict[tuple[int, int], float],
) -> float:  # fmt: skip
    """Draws one latent and everything below it from `line` on; returns the line behind the last one."""
    below = children.get((place + 1, latent), []) if place + 1 < len(widths) else []
    begin = line
    for child in below:
        line = _place(ax, own, children, widths, place + 1, child, line, height)
    line = max(line, begin + 1)
    middle = (begin + line - 1) / 2
    height[place, latent] = middle
    row = own[(own["width"] == widths[place]) & (own["latent"] == latent)].iloc[0]
    label = str(row["label"])
    ax.text(place, middle, label[:34], fontsize=6, va="center", ha="left", parse_math=False)
    for child in below:
        ax.plot([place + 0.72, place + 0.97], [middle, height[place + 1, child]], color=PALETTE[5], linewidth=0.9)
    return line


def universality(twins: pd.DataFrame) -> Picture:
    """Largest correlation of each unit with a unit of another network."""
    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.6))
    for kind, (label, colour, line) in TWINS.items():
        values = np.sort(twins.loc[twins["kind"] == kind, "correlation"])
        ax.plot(values, np.linspace(0, 1, len(values)), line, color=colour, label=label)
    ax.set(xlabel="largest correlation with a unit elsewhere", ylabel="share of units below", xlim=(-0.02, 1.02))
    ax.legend(frameon=False, loc="lower right", fontsize=6)
    return figure, twins


KINDS = {
    "features": ("latents", PALETTE[0], "-"),
    "narrow": ("latents, narrowest", PALETTE[5], "-"),
    "relu": ("latents, narrowest, ReLU and L1", PALETTE[4], "-"),
    "neurons": ("neurons, same rates", PALETTE[1], "-"),
    "raw": ("neurons, as they fire", PALETTE[1], ":"),
    "rotated": ("rotated neurons", PALETTE[2], "-"),
    "start": ("untrained dictionary", "0.5", "--"),
    "untrained": ("latents, untrained network", PALETTE[3], "-"),
    "shuffled": ("latents, exchanged explanations", "0.5", ":"),
}


SCORES = {
    "detection": "balanced accuracy, detection",
    "fuzzing": "balanced accuracy, fuzzing",
    "ranking": "AUROC, detection",
    "purity": "purity",
}


def units(quarters: pd.DataFrame, table: pd.DataFrame, metrics: dict[str, Metric]) -> Picture:
    """Scores by quarter of the activations; then one unit after the other, and latents against neurons."""
    figure, grid = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 4.8))
    panels = [grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]]
    for ax, (score, name) in zip(panels, SCORES.items(), strict=True):
        for kind, (label, colour, line) in KINDS.items():
            own = quarters[(quarters["kind"] == kind) & (quarters["score"] == score)].groupby("quarter")["accuracy"]
            if not len(own):
                continue  # purity asks for no explanation, so there are none to exchange
            ax.plot(own.mean().index, own.mean(), line, marker="o", markersize=3, color=colour, label=label)
            ax.fill_between(own.mean().index, own.min(), own.max(), color=colour, alpha=0.2, linewidth=0)
        if score != "purity":
            ax.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
        ax.set(xlabel="quarter, 1 strongest", ylabel=name, xticks=range(1, 5))
    differences = _differences(grid[1, 2], metrics)
    for kind, (label, colour, line) in KINDS.items():
        each = np.sort(table.loc[table["kind"] == kind, "fuzzing"])[::-1]
        if len(each):
            grid[0, 2].plot(np.linspace(0, 1, len(each)), each, line, color=colour, label=label)
    grid[0, 2].set(xlabel="units, best explained first", ylabel="balanced accuracy, fuzzing")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, pd.concat([quarters, differences])


def _differences(ax: Axes, metrics: dict[str, Metric]) -> pd.DataFrame:
    """Latents minus neurons at equal rates, paired, with intervals over resampled documents."""
    drawn: list[dict[str, object]] = []
    for score, colour, marker, aside in (("ranking", PALETTE[0], "o", -0.06), ("purity", PALETTE[1], "s", 0.06)):
        found = [
            metrics[f"{score}_quarter{quarter}_latents_documents"].control("rate_matched_neurons").difference
            for quarter in range(1, 5)
        ]
        value = np.array([one.value for one in found])
        error = np.array([[one.value - one.ci_low, one.ci_high - one.value] for one in found]).T
        at = np.arange(1, 5) + aside
        ax.errorbar(at, value, error, fmt=marker, markersize=4, color=colour, label=SCORES[score])
        drawn += [
            {"kind": "features minus neurons", "score": score, "quarter": quarter + 1, "accuracy": one.value,
             "ci_low": one.ci_low, "ci_high": one.ci_high}
            for quarter, one in enumerate(found)
        ]  # fmt: skip
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="quarter, 1 strongest", ylabel="latents minus neurons", xticks=range(1, 5))
    ax.legend(frameon=False, loc="center right")
    return pd.DataFrame(drawn)


def logits(table: pd.DataFrame) -> Picture:
    """Correlations of logit weights and what follows, unit by unit."""
    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    for kind, own in table.groupby("kind", sort=False):
        label, colour, line = KINDS[str(kind)]
        values = np.sort(own["logits"])
        ax.plot(values, np.linspace(0, 1, len(values)), line, color=colour, label=label)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="correlation of logit weights and lift of next tokens", ylabel="share of units below")
    ax.legend(frameon=False, loc="lower right")
    return figure, table[["seed", "kind", "unit", "logits"]]


SCORERS = {
    "model": "language model,\nown explanation",
    "exchanged": "language model,\nexchanged",
    "lexical": "looked up,\nown explanation",
}


def language_scorer(table: pd.DataFrame) -> Figure:
    """AUROC of every latent under three scorers, one column each, one colour a seed."""
    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.6))
    seeds = sorted(table["seed"].unique())
    for number, seed in enumerate(seeds):
        own, colour = table[table["seed"] == seed], PALETTE[number % len(PALETTE)]
        for column, name in enumerate(SCORERS):
            at = column + 0.2 * (number - (len(seeds) - 1) / 2)
            ax.scatter(np.full(len(own), at), own[name], s=9, color=colour, alpha=0.6, linewidths=0)
            ax.hlines(own[name].mean(), at - 0.08, at + 0.08, color=colour, linewidth=2)
    ax.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(SCORERS)), list(SCORERS.values()))
    ax.set(ylabel="AUROC, contexts of a latent", ylim=(-0.02, 1.02))
    return figure


def examples(table: pd.DataFrame) -> Figure:
    """Contexts of some latents, one row per quarter, shaded by activation."""
    groups = list(table.groupby("place", sort=False))
    lines = -(-len(groups) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(PAGE_WIDTH, 0.95 * lines), squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    for ax, (_, own) in zip(axes.flat, groups, strict=False):
        first = own.iloc[0]
        ax.set(xlim=(0, 50), ylim=(4.6, -0.75))
        ax.axis("off")
        score = f"latent {first['unit']}, detection {float(first['detection']):.2f}:"
        ax.text(0, -0.35, f"{score} {first['explanation']}", fontsize=6.5, weight="bold", va="center", parse_math=False)
        for quarter, line in own.groupby("quarter"):
            _line(ax, line.sort_values("offset"), int(str(quarter)))
    return figure


def _line(ax: Axes, line: pd.DataFrame, quarter: int) -> None:
    """One context in a font of equal widths, so that shading and text agree."""
    width, left = 0.78, 6.5
    ax.text(0, quarter - 0.4, f"quarter {quarter}", fontsize=6, color="0.4", va="center")
    at = left
    for word, level in zip(line["token"].astype(str), line["level"].astype(float), strict=True):
        text = word[:14]
        if level > 0:
            end, alpha = at + width * len(text), 0.15 + 0.6 * level
            ax.axvspan(at, end, *_span(quarter), color=PALETTE[1], alpha=alpha, linewidth=0)
        ax.text(at, quarter - 0.4, text, fontsize=6, family="DejaVu Sans Mono", va="center", parse_math=False)
        at += width * len(text) + 0.35


def _span(quarter: int) -> tuple[float, float]:
    """Lower and upper end of a row as shares of the height."""
    low, high = quarter - 0.85, quarter + 0.05
    return 1 - (high + 0.75) / 5.35, 1 - (low + 0.75) / 5.35


TEXT = {"keep_default_na": False}
PLANS = {
    "loss/loss": Plan(loss, ("ways.csv", "curves.csv", "metrics.json")),
    "splitting/splitting": Plan(splitting, ("nests.csv",)),
    "splitting/families": Plan(families, ("families.csv",), TEXT),
    "universality/universality": Plan(universality, ("twins.csv",)),
    "units/units": Plan(units, ("quarters.csv", "units.csv", "metrics.json")),
    "units/examples": Plan(examples, ("examples.csv",), TEXT),
    "logits/logits": Plan(logits, ("units.csv",)),
    "language_scorer/language_scorer": Plan(language_scorer, ("latents.csv",), TEXT),
}


if __name__ == "__main__":
    run_plans(PLANS)
