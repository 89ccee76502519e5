"""Step: draws all figures from the tables of their parts."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Metric
from replications.monosemanticity.metrics import records
from replications.monosemanticity.replacement import recovered

INSIDE, OUTSIDE = PALETTE[0], "#B5D4EA"
KINDS = {
    "latents": ("latents", PALETTE[0], "-"),
    "untrained_network": ("latents, untrained network", PALETTE[3], "-"),
    "rate_matched_neurons": ("neurons, same rates", PALETTE[1], "-"),
    "neurons": ("neurons, as they fire", PALETTE[1], ":"),
    "rotated_neurons": ("rotated neurons", "0.6", "-"),
    "random_rows": ("random rows", "0.35", "--"),
    "pattern_means": ("mean of the pattern", "0.35", "--"),
    "single_token": ("one token", "0.35", ":"),
    "token_set": ("set of tokens", "0.35", ":"),
    "token_pairs": ("table of token pairs", "0.35", ":"),
    "other_documents": ("latents, other documents", "0.6", ":"),
}


def dots(ax: Axes, table: pd.DataFrame, column: str, order: list[str], labels: list[str], effects: int = 1) -> None:
    """One mark a seed and a bar at the mean, kinds from top to bottom; all but the first `effects` in grey."""
    for row, kind in enumerate(order):
        own = table.loc[table["kind"] == kind, column]
        colour = PALETTE[0] if row < effects else "0.45"
        ax.plot([own.mean()] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
        ax.scatter(own, row + np.linspace(-0.2, 0.2, len(own)), s=8, color=colour, alpha=0.6, linewidths=0, zorder=3)
    ax.set_yticks(range(len(order)), labels)
    ax.set_ylim(len(order) - 0.5, -0.5)


def units(scores: pd.DataFrame) -> Picture:
    """How well the last two tokens predict units: over all tokens, and beyond the present token."""
    figure, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.4), height_ratios=[1, 1.15])
    kinds = [kind for kind in KINDS if kind in set(scores["kind"])]
    means = scores.groupby(["kind", "seed"], sort=False)[["all", "within"]].mean().reset_index()
    for column, (name, title) in enumerate({"all": "all tokens", "within": "beyond the present token"}.items()):
        dots(axes[0, column], means, name, kinds, [KINDS[kind][0] for kind in kinds] if column == 0 else [""] * 6)
        axes[0, column].set_title(title)
        axes[0, column].set_xlabel("mean correlation, one mark a network")
        for kind in kinds:
            label, colour, line = KINDS[kind]
            values = np.sort(scores.loc[scores["kind"] == kind, name])
            axes[1, column].plot(values, np.linspace(0, 1, len(values)), line, color=colour, label=label)
        axes[1, column].set(xlabel="correlation of activation and prediction", ylabel="share of units below")
    axes[1, 0].legend(frameon=False, fontsize=6, loc="upper left")
    return figure, means


def examples(table: pd.DataFrame) -> Figure:
    """Strongest contexts of latents chosen at random, shaded by activation."""
    groups = list(table.groupby("unit", sort=False))
    lines = -(-len(groups) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(PAGE_WIDTH, 0.95 * lines), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (unit, own) in zip(axes.flat, groups, strict=False):
        first = own.iloc[0]
        ax.set(xlim=(0, 50), ylim=(4.6, -0.75))
        title = f"latent {unit}, on {100 * float(first['rate']):.1f} % of tokens: {first['told']}"
        ax.text(0, -0.3, title[:66], fontsize=6.5, weight="bold", va="center", parse_math=False)
        for context, line in own.groupby("context"):
            _line(ax, line.sort_values("offset"), int(str(context)))
    return figure


def _line(ax: Axes, line: pd.DataFrame, row: int) -> None:
    """One context in a font of equal widths, so that shading and text agree."""
    width, at = 0.74, 0.0
    for word, level in zip(line["token"].astype(str), line["level"].astype(float), strict=True):
        text = word[:14]
        end = at + width * len(text)
        if level > 0:
            ax.fill_between([at, end], row - 0.85, row + 0.05, color=PALETTE[1], alpha=0.1 + 0.6 * level, linewidth=0)
        ax.text(at, row - 0.4, text, fontsize=6, family="DejaVu Sans Mono", va="center", parse_math=False)
        at = end + 0.25


def named(patterns: pd.DataFrame) -> Picture:
    """F1 of the best unit of each kind, pattern by pattern; and what pushing along its direction does."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.5), width_ratios=[1.6, 1], sharey=True)
    order = [kind for kind in KINDS if kind in set(patterns["kind"])]
    drawn = patterns[["seed", "pattern", "kind", "f1", "push"]]
    grid = drawn.groupby(["kind", "pattern"], sort=False)["f1"].mean().unstack("pattern").loc[order]
    grid.insert(0, "mean", grid.mean(axis=1))
    left.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(grid.to_numpy()):
        for column, value in enumerate(values.tolist()):
            text, colour = ("", "k") if np.isnan(value) else (f"{value:.2f}", "w" if value < 0.6 else "k")
            left.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    left.set_xticks(range(grid.shape[1]), list(grid.columns), rotation=45, ha="right")
    left.set_title("F1 of the best unit on other documents")
    left.axvline(0.5, color="w", linewidth=2)
    pushed = drawn[drawn["push"].notna()].groupby(["kind", "seed"], sort=False)["push"].mean().reset_index()
    dots(right, pushed, "push", order, [KINDS[kind][0] for kind in order])
    right.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    right.set(xlabel="log odds of its tokens, nats", title="pushed along its direction")
    return figure, drawn


ROWS = {"latents": ("latent", INSIDE, OUTSIDE), "neurons": ("neuron", "0.35", "0.8"),
        "untrained_network": ("latent,\nuntrained network", "0.35", "0.8")}  # fmt: skip


def activations(histograms: pd.DataFrame) -> Figure:
    """Activations of the best unit of three kinds for each pattern, dark inside the pattern and light outside."""
    names = list(dict.fromkeys(histograms["pattern"]))
    figure, axes = plt.subplots(len(ROWS), len(names), figsize=(PAGE_WIDTH, 3.9), sharex=True, squeeze=False)
    for row, (kind, (label, dark, light)) in enumerate(ROWS.items()):
        for ax, pattern in zip(axes[row], names, strict=True):
            own = histograms[(histograms["pattern"] == pattern) & (histograms["kind"] == kind)]
            inside, outside = (own[own["where"] == where] for where in ("inside", "outside"))
            ax.bar(outside["level"], outside["count"], 0.05, bottom=inside["count"], align="edge", color=light)
            ax.bar(inside["level"], inside["count"], 0.05, align="edge", color=dark)
            ax.axvline(float(own["threshold"].iloc[0]), color="k", linewidth=0.7, linestyle=":")
            ax.set_yscale("symlog", linthresh=10)
            ax.set_ylim(0, 1.2 * max(12, int((inside["count"].to_numpy() + outside["count"].to_numpy()).max())))
            ax.minorticks_off()
            ax.tick_params(labelsize=6)
            ax.set_xticks([0, 0.5, 1], ["0", "", "1"])
            if row == 0:
                ax.set_title(pattern)
        axes[row, 0].set_ylabel(f"best {label}\nheld-out tokens", fontsize=6.5)
    axes[-1, len(names) // 2].set_xlabel("activation, share of its largest; dotted: threshold")
    return figure


WAYS = {
    "trained": "dictionary, {} latents",
    "relu": "dictionary, {} latents, ReLU and L1",
    "pair": "mean at each pair of tokens",
    "token": "mean at each token",
    "start": "random rows, {}",
    "components": "principal components",
    "neurons": "largest neurons",
    "mean": "mean activation",
}


def loss(ways: pd.DataFrame, curves: pd.DataFrame, metrics: dict[str, Metric]) -> Picture:
    """Left: training, beside counts. Right: loss recovered by dictionaries and by what knows no features."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.9), width_ratios=[1, 1.3])
    for _, own in curves.groupby("seed"):
        left.plot(own["tokens"] / 1000, own["loss"], color=PALETTE[0], linewidth=0.8)
    model = metrics["ce_model"].value
    for name, line in (("unigrams", ":"), ("bigrams", "--"), ("trigrams", "-.")):
        left.axhline(model + metrics[f"gain_over_{name}"].value, color="0.4", linestyle=line, label=name)
    left.set(xlabel="thousand tokens", ylabel="held-out cross-entropy, nats")
    left.legend(frameon=False)
    rows = []
    for seed, own in ways.groupby("seed"):
        known = records(own)
        names = [name for name in own["name"] if name not in ("clean", "zero")]
        rows += [{"seed": seed, "kind": name, "recovered": recovered(known, name)} for name in names]
    table = pd.DataFrame(rows)
    present = list(dict.fromkeys(table["kind"]))
    order = [name for way in WAYS for name in sorted(present, key=_width, reverse=True) if name.split("-")[0] == way]
    labels = [WAYS[name.split("-")[0]].format(_width(name)) for name in order]
    effects = sum(name.startswith(("trained", "relu")) for name in order)
    dots(right, table, "recovered", order, labels, effects)
    right.axvline(0.79, color=PALETTE[1], linewidth=0.9, linestyle="--", zorder=0)
    right.text(0.79, -0.45, "paper, 4,096 latents ", color=PALETTE[1], fontsize=6, ha="right", va="center")
    right.set(xlabel="loss recovered against zero ablation")
    return figure, table


def _width(name: str) -> int:
    return int(name.split("-")[1]) if "-" in name else 0


SPLITS = {
    "widest": "widest dictionary",
    "equal_width_twin": "twin of equal width",
    "four_twins_pooled": "four such twins, pooled",
    "random_rows": "random rows, as many",
    "permuted_neurons": "widest, neurons permuted",
}


def splitting(families: pd.DataFrame) -> Picture:
    """Share of narrow latents that split, with and without copies, and how far children lie inside their parents."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.2))
    for ax, prefix, title in (
        (axes[0], "", "narrow latents with\ntwo or more children"),
        (axes[1], "distinct_", "with two that fire on\ndifferent tokens"),
        (axes[2], "inside_", "P(nearest narrow latent fires |\nlatent fires)"),
    ):
        long = families.melt("seed", [f"{prefix}{name}" for name in SPLITS], "kind", "value")
        labels = list(SPLITS.values()) if not prefix else [""] * len(SPLITS)
        dots(ax, long, "value", [f"{prefix}{name}" for name in SPLITS], labels)
        ax.set_xlabel(title)
    return figure, families


def universality(correlations: pd.DataFrame) -> Picture:
    """Largest correlation of each unit with a unit of another network."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.5), sharey=True)
    for ax, column, title in zip(axes, ("all", "within"), ("all tokens", "beyond the present token"), strict=True):
        for kind, (label, colour, line) in KINDS.items():
            values = np.sort(correlations.loc[correlations["kind"] == kind, column])
            if len(values):
                ax.plot(values, np.linspace(0, 1, len(values)), line, color=colour, label=label)
        ax.set(xlabel="largest correlation with a unit of another network", title=title, xlim=(-0.02, 1.02))
    axes[0].set_ylabel("share of units below")
    axes[1].legend(frameon=False, loc="lower right", fontsize=6)
    return figure, correlations


TEXT = {"keep_default_na": False}
PLANS = {
    "units/units": Plan(units, ("scores.csv",)),
    "units/examples": Plan(examples, ("examples.csv",), TEXT),
    "named/named": Plan(named, ("patterns.csv",)),
    "named/activations": Plan(activations, ("histograms.csv",)),
    "loss/loss": Plan(loss, ("ways.csv", "curves.csv", "metrics.json")),
    "splitting/splitting": Plan(splitting, ("families.csv",)),
    "universality/universality": Plan(universality, ("correlations.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
