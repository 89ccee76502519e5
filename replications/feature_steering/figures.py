"""Step: draws the methods side by side, the frontier, dose-response curves, specificity, and the removal."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE, Plan, run_plans
from common.core.metrics import Estimate, Metric
from replications.feature_steering.settings import (
    INSTRUCTION,
    LEARNED,
    METHODS,
    NULL_OF,
    RANDOM,
    REMOVAL_CONTROLS,
    REMOVALS,
)

NAMES = {
    "sae": ("SAE latent", "o", PALETTE[0]),
    "diff_means": ("difference of means", "s", PALETTE[1]),
    "probe": ("linear probe", "^", PALETTE[2]),
    "pca": ("principal component", "D", PALETTE[3]),
    "random_latent": ("random live latent", "v", "0.45"),
    "random_direction": ("random direction", "X", "0.65"),
    "permuted_means": ("difference of means, labels permuted", "P", "0.55"),
    "instruction": ("instruction in the prompt", "*", PALETTE[6]),
}
ARMS = {
    "add": "subtract the decoder row",
    "clamp": "clamp below 0, error kept",
    "clamp_without_error": "clamp below 0, error dropped",
    "project": "project the decoder row out",
    "clamp_random": "clamp a random live latent (control)",
    "add_random": "subtract a random live latent's row (control)",
}
TICKS = (0.7, 1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000)  # of perplexity ratios


def fluent(table: pd.DataFrame) -> tuple[float, float]:
    """The perplexity ratios that count as fluent."""
    return float(table["fluent_from"].iloc[0]), float(table["fluent_to"].iloc[0])


def frontier(table: pd.DataFrame) -> Figure:
    """Perplexity ratio against gain, by probe and by lexicon."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.2))
    labels = ("gain of the concept's score (probe)", "gain of its lexicon (share of tokens)")
    for axes, column, label in zip(panels, ("gain", "gain_lexicon"), labels, strict=True):
        for method, (name, marker, colour) in NAMES.items():
            line = table[table["method"] == method].sort_values("multiplier")
            if line.empty:
                continue
            x, y = line["perplexity"].to_numpy(), line[column].to_numpy()
            if method != INSTRUCTION:
                x, y = np.append(1.0, x), np.append(0.0, y)
            axes.plot(x, y, "-", color=colour, linewidth=0.9, alpha=0.8)
            axes.plot(x, y, marker, color=colour, markersize=8 if method == INSTRUCTION else 4, label=name)
        axes.axvspan(*fluent(table), color="0.93", zorder=0)
        axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        low, high = table["perplexity"].min(), table["perplexity"].max()
        axes.set(xscale="log", xlabel="perplexity, times unsteered", ylabel=label)
        axes.set_xlim(min(0.9, low * 0.95), max(1.3, high * 1.08))
        ticks = [tick for tick in TICKS if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def dose_response(table: pd.DataFrame) -> Figure:
    """Gain, perplexity ratio and distinct ratio over the multiplier; a ring marks where texts fall apart."""
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.7))
    for axes, column, zero in zip(panels, ("gain", "perplexity", "distinct"), (0.0, 1.0, 1.0), strict=True):
        for method in METHODS:
            name, marker, colour = NAMES[method]
            line = table[table["method"] == method].sort_values("multiplier")
            if line.empty:
                continue
            x, y = np.append(0.0, line["multiplier"]), np.append(zero, line[column])
            axes.plot(x, y, marker + "-", color=colour, markersize=3.5, linewidth=1, label=name)
            if column == "gain":
                axes.fill_between(
                    line["multiplier"], line["gain_low"], line["gain_high"], color=colour, alpha=0.1, lw=0
                )
            lost = line[line["multiplier"] == line["collapse"]]
            axes.plot(lost["multiplier"], lost[column], "o", mfc="none", mec="k", markersize=8, mew=0.8)
        axes.set_xlabel("length of the added vector\n(share of the residual norm)")
    panels[0].set_ylabel("gain of the concept's score")
    panels[1].set(ylabel="perplexity, times unsteered", yscale="log")
    ticks = [tick for tick in TICKS[1:] if tick <= table["perplexity"].max() * 1.1]
    panels[1].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[1].minorticks_off()
    panels[1].axhspan(*fluent(table), color="0.93", zorder=0)
    panels[1].set_ylim(min(0.9, table["perplexity"].min() * 0.95), None)
    panels[2].set_ylabel("distinct bigrams,\ntimes unsteered")
    panels[2].axhline(float(table["distinct_from"].iloc[0]), color="0.7", linewidth=0.8, linestyle=":")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def methods(metrics: dict[str, Metric], gains: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Gain of every method on the scoring prompts: each concept, mean and interval; below, at fluent lengths."""
    panels: dict[str, dict[str, tuple[str, float | None]]] = {
        "vectors of equal length": {arm: (arm, None) for arm in (*METHODS, INSTRUCTION)}
    }
    if fluent_lengths := {m: metrics[f"fluent_{m}_length"].value for m in NULL_OF if f"fluent_{m}_length" in metrics}:
        panels["at the largest fluent length"] = {
            arm: (source, length)
            for method, length in fluent_lengths.items()
            for arm, source in (
                (f"fluent_{method}", method), *((f"{null}_as_{method}", null) for null in (NULL_OF[method], RANDOM)),
            )
        }  # fmt: skip
    heights = [len(arms) for arms in panels.values()]
    figure, columns = plt.subplots(
        len(panels), 1, figsize=(PAGE_WIDTH * 0.8, 0.9 + 0.28 * sum(heights)), sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    spread = np.random.default_rng(0).uniform(-0.18, 0.18, len(gains))
    lines = []
    for axes, (title, arms) in zip(columns[:, 0], panels.items(), strict=True):
        labels = []
        for place, (arm, (source, length)) in enumerate(reversed(arms.items())):
            name, _, colour = NAMES[source]
            estimate = gain_of(metrics, arm)
            axes.plot(gains[arm], place + spread, "o", color=colour, markersize=2.5, alpha=0.35, mew=0)
            axes.errorbar(
                estimate.value, place, fmt="o", color=colour, mec="k", mew=0.6, ecolor="k", markersize=5, capsize=2.5,
                xerr=[[estimate.value - estimate.ci_low], [estimate.ci_high - estimate.value]], zorder=4,
            )  # fmt: skip
            labels.append(name if length is None else f"{name}, {length:g}" if length else f"{name}, none")
            lines.append({"arm": arm, **estimate.model_dump(include={"value", "ci_low", "ci_high"})})
        axes.set_yticks(range(len(arms)), labels)
        axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        axes.set_title(title, loc="left")
    columns[-1, 0].set_xlabel(
        "gain of the concept's score over unsteered texts\n(standard deviations of other documents)"
    )
    return figure, pd.DataFrame(lines)


def gain_of(metrics: dict[str, Metric], arm: str) -> Estimate:
    """The gain of a method, or of a null where it stands as a control."""
    if f"{arm}_gain" in metrics:
        return metrics[f"{arm}_gain"]
    null, _, method = arm.partition("_as_")
    return metrics[f"fluent_{method}_gain" if method else f"{LEARNED[0]}_gain"].control(null)


def heat_map(matrix: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Gain of every concept's score (columns, standardised) under every concept's SAE latent (rows)."""
    gains = matrix.set_index("steered")
    shown = (gains - gains.mean()) / gains.std(ddof=0).replace(0.0, 1.0)
    values = shown.to_numpy()
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.8, PAGE_WIDTH * 0.72))
    limit = float(np.quantile(np.abs(values), 0.98))
    image = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
    for place in range(len(values)):
        axes.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.0))
    axes.set_xticks(range(values.shape[1]), shown.columns, rotation=90, fontsize=5.5)
    axes.set_yticks(range(len(values)), shown.index, fontsize=5.5)
    axes.set(xlabel="score of", ylabel="SAE latent of")
    figure.colorbar(image, ax=axes, shrink=0.7, label="gain, standard deviations of its column")
    return figure, shown.reset_index()


def removed(metrics: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """Fall of the concept's score in continuations of its own documents, by intervention."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.75, 2.4))
    lines = []
    for place, arm in enumerate(reversed(REMOVALS)):
        is_control, ratio = arm in REMOVAL_CONTROLS, metrics[f"{arm}_perplexity"].value
        estimate = metrics["add_drop"].control(arm) if is_control else metrics[f"{arm}_drop"]
        spread = [[estimate.value - estimate.ci_low], [estimate.ci_high - estimate.value]]
        colour = "0.55" if is_control else PALETTE[0]
        axes.errorbar(estimate.value, place, xerr=spread, fmt="o", color=colour, markersize=5, capsize=2.5)
        lines.append({"arm": arm, **estimate.model_dump(include={"value", "ci_low", "ci_high"}), "perplexity": ratio})
    labels = [f"{ARMS[line['arm']]}\n(perplexity times {line['perplexity']:.3g})" for line in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=6.5)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("fall of the concept's score, unsteered minus steered")
    return figure, pd.DataFrame(lines)


PLANS = {
    "steering/methods": Plan(methods, ("metrics.json", "gains.csv")),
    "steering/frontier": Plan(frontier, ("doses.csv",)),
    "steering/doses": Plan(dose_response, ("doses.csv",)),
    "steering/specificity": Plan(heat_map, ("specificity.csv",)),
    "removal/removal": Plan(removed, ("metrics.json",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
