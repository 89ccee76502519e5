"""Step: draws takeover and the ratings against dose, the methods side by side, three transcripts, and the removal."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans
from common.core.metrics import Metric
from replications.feature_steering.settings import (
    CURVES,
    GRADIENT,
    INPUT,
    INSTRUCTION,
    MEANS,
    OTHER_INPUT,
    OTHER_MEANS,
    OUTPUT,
    PROBE,
    RANDOM_DIRECTION,
    RANDOM_LATENT,
    REMOVERS,
    REMOVING_NULLS,
    TOGETHER,
    UNSTEERED,
    WORDS,
)

NAMES = {
    INSTRUCTION: ("instruction in the prompt", "*", PALETTE[4]),
    MEANS: ("difference of means", "s", PALETTE[1]),
    PROBE: ("linear probe", "^", PALETTE[2]),
    WORDS: ("rows of the topic's words", "p", PALETTE[6]),
    GRADIENT: ("gradient of the topic's words", "H", "#882255"),
    OUTPUT: ("SAE latent, chosen by output", "o", PALETTE[0]),
    INPUT: ("SAE latent, chosen by input", "D", PALETTE[5]),
    "sae_sum_4": ("sum of 4 SAE latents", ">", PALETTE[3]),
    "sae_sum_32": ("sum of 32 SAE latents", "<", PALETTE[3]),
    RANDOM_LATENT: ("random live latent, chosen by output", "v", "0.45"),
    RANDOM_DIRECTION: ("random direction, chosen by output", "X", "0.65"),
    UNSTEERED: ("unsteered", "P", "0.8"),
}
REMOVED = {
    **NAMES,
    OTHER_INPUT: ("SAE latent of another topic", "d", "0.65"),
    OTHER_MEANS: ("difference of means of another topic", "h", "0.8"),
}
RATINGS = {"concept": "words of the topic", "follows": "fits its question", "fluency": "fluency"}
SHARES = {"takeover": "takes topic up", "judged": "judge names it", "as_itself": "takes it up as “I”"}
TITLES = {**RATINGS, "score": "harmonic mean", **SHARES, "words": "own words; others: dots"}
PERPLEXITY = 3  # times unsteered: what an answer may cost
WIDTH, LINES = 46, 7  # characters and lines of a transcript


def takeover(doses: pd.DataFrame) -> Figure:
    """Share of answers that take the topic up, and their perplexity, over the dose; and over how many latents are added
    up in one direction."""
    figure, (left, right, sums) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.9), width_ratios=(1.15, 1, 0.85))
    unsteered = doses[doses["method"] == UNSTEERED].iloc[0]
    for method in CURVES:
        name, marker, colour = NAMES[method]
        line = doses[doses["method"] == method].sort_values("dose")
        x = np.append(0.0, line["dose"])
        y, low, high = (np.append(unsteered[one], line[one]) for one in ("takeover", "low", "high"))
        left.plot(x, y, marker + "-", color=colour, label=name, markersize=4)
        left.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
        right.plot(x, np.append(1.0, line["perplexity"]), marker + "-", color=colour, markersize=4)
    told = doses[doses["method"] == INSTRUCTION].iloc[0]
    right.axhline(PERPLEXITY, color="0.4", linewidth=0.8, linestyle=":")
    right.text(0, PERPLEXITY * 1.03, "limit for one answer", fontsize=6.5, color="0.35")
    left.set(ylabel="answers that take the topic up", xlabel="dose (share of the norm)")
    right.set(ylabel="perplexity, times unsteered", yscale="log", xlabel="dose (share of the norm)")
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50) if tick <= 1.2 * right.get_ylim()[1]]
    right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    right.minorticks_off()
    dose = doses.loc[doses["method"] == INPUT, "dose"].iloc[0]
    steps = [INPUT, *TOGETHER, MEANS]
    rows = [doses[(doses["method"] == method) & np.isclose(doses["dose"], dose)].iloc[0] for method in steps]
    for place, (method, row) in enumerate(zip(steps, rows, strict=True)):
        _, marker, colour = NAMES[method]
        error = [[row["takeover"] - row["low"]], [row["high"] - row["takeover"]]]
        sums.errorbar(place, row["takeover"], yerr=error, fmt=marker, color=colour, ecolor="k", capsize=2, markersize=5)
    sums.set_xticks(range(len(steps)), ["1", *(str(count) for count in TOGETHER.values()), "means"])
    sums.set(xlabel=f"latents added up, dose {dose:g}", xlim=(-0.5, len(steps) - 0.5))
    top = max(0.5, 1.1 * float(doses["high"].max()))
    for axes in (left, sums):
        axes.axhline(told["takeover"], color=NAMES[INSTRUCTION][2], linestyle="--", label=NAMES[INSTRUCTION][0])
        axes.set_ylim(0, min(1.0, top))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def curves(doses: pd.DataFrame) -> Figure:
    """Ratings of AxBench and their harmonic mean over the dose. Below, the share of answers that words, the judge and
    self-reference find taken over, and their words of the topic and of other topics."""
    figure, panels = plt.subplots(2, 4, figsize=(PAGE_WIDTH, 4.3), sharex=True)
    unsteered, told = (doses[doses["method"] == method].iloc[0] for method in (UNSTEERED, INSTRUCTION))
    name_told, _, colour_told = NAMES[INSTRUCTION]

    def draw(axes: Axes, column: str, style: str) -> None:
        bounds = ("low", "high") if column == "takeover" else (f"{column}_low", f"{column}_high")
        for method in CURVES:
            name, marker, colour = NAMES[method]
            line = doses[doses["method"] == method].sort_values("dose")
            x = np.append(0.0, line["dose"])
            y, low, high = (np.append(unsteered[own], line[own]) for own in (column, *bounds))
            axes.plot(x, y, marker + style, color=colour, label=name, markersize=3, linewidth=1.1)
            axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)

    shares = doses[["high", "judged_high", "as_itself_high"]].to_numpy().max()
    for axes, (column, title) in zip(panels.flat, TITLES.items(), strict=True):
        draw(axes, column, "-")
        axes.axhline(told[column], color=colour_told, linestyle="--", linewidth=1, label=name_told)
        top = 2.0 if column in RATINGS else min(1.0, 1.1 * shares) if column in SHARES else axes.get_ylim()[1]
        axes.set_ylim(-0.03 * top, 1.03 * top)
        axes.set_title(title, loc="left", fontsize=8)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    draw(panels[1, 3], "others", ":")
    labels = ("rating, 0 to 2", "rating", "share of answers", "words")
    for axes, label in zip(panels[:, [0, 3]].flat, labels, strict=True):
        axes.set_ylabel(label, labelpad=2)
    for axes in panels[1]:
        axes.set_xlabel("dose")
    return figure


def methods(metrics: dict[str, Metric], topics: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Takeover by words and by the linear judge, fit to the question, and the score, of every method: topics as dots,
    mean with interval."""
    figure, panels = plt.subplots(1, 4, figsize=(PAGE_WIDTH, 2.9), sharey=True)
    titles = {
        "takeover": "takes topic up",
        "judged": "judge names it",
        "follows": "fits its question",
        "score": "all three ratings",
    }
    spread, lines = np.random.default_rng(0).uniform(-0.2, 0.2, len(topics)), []
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for place, (method, (_, _, colour)) in enumerate(reversed(NAMES.items())):
            found = (
                metrics[f"{MEANS}_{column}"].control(UNSTEERED)
                if method == UNSTEERED
                else metrics[f"{method}_{column}"]
            )
            dots = topics[f"{method}_{column}"] + spread / 12
            axes.plot(dots, place + spread, "o", color=colour, markersize=2.2, alpha=0.35, mew=0)
            axes.errorbar(
                found.value, place, xerr=[[found.value - found.ci_low], [found.ci_high - found.value]], fmt="o",
                color=colour, mec="k", mew=0.6, ecolor="k", markersize=5, capsize=2.5, zorder=4,
            )  # fmt: skip
            value, low, high = found.value, found.ci_low, found.ci_high
            lines.append({"method": method, "measure": column, "value": value, "low": low, "high": high})
        axes.set_title(title, loc="left", fontsize=8)
        rated = column in ("follows", "score")
        axes.set_xlabel("rating, 0 to 2" if rated else "share of answers")
        axes.set_xlim(*((-0.08, 2.08) if rated else (-0.04, 1.04)))
    panels[0].set_yticks(range(len(NAMES)), [name for name, _, _ in reversed(NAMES.values())])
    return figure, pd.DataFrame(lines)


def transcripts(shown: pd.DataFrame) -> Figure:
    """The median answers of the three latents with the highest output score, beside the difference of means."""
    columns = {"unsteered": "unsteered", "latent_answer": "SAE latent clamped", "means": "difference of means added"}
    figure, axes = plt.subplots(len(shown), len(columns), figsize=(PAGE_WIDTH, 1.15 * len(shown) + 0.3), squeeze=False)
    for row, (_, one) in enumerate(shown.iterrows()):
        for column, (key, title) in enumerate(columns.items()):
            cell = axes[row, column]
            cell.set(xticks=[], yticks=[], facecolor="0.96" if column == 0 else "white")
            question = str(one["means_asked" if key == "means" else "asked"])
            text = "\n".join(textwrap.wrap(printable(str(one[key])), WIDTH)[:LINES])
            cell.text(0.02, 0.96, question, fontsize=5.8, va="top", transform=cell.transAxes, style="italic")
            cell.text(0.02, 0.82, text, fontsize=5.8, va="top", transform=cell.transAxes, parse_math=False)
            if row == 0:
                cell.set_title(title, fontsize=7.5, loc="left")
        axes[row, 0].set_ylabel(textwrap.fill(str(one["topic"]), 16), fontsize=7)
    return figure


def printable(text: str) -> str:
    """One line; characters that the figure's font lacks become a dot."""
    return "".join(one if one.isprintable() and ord(one) < 0x250 else "·" for one in " ".join(text.split()))


def removed(metrics: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """Fall of the topic's words in answers about it, over the perplexity paid, at every strength."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.6, 2.8))
    lines = []
    for method in (*REMOVERS, *REMOVING_NULLS):
        name, marker, colour = REMOVED[method]
        falls = {key: one for key, one in metrics.items() if key.startswith(f"remove_{method}_") and "_fall" in key}
        for key, fall in falls.items():
            paid = metrics[key.replace("_fall", "_nats")]
            lines.append({"method": method, "strength": int(key.split("_")[-2]), "fall": fall.value, "low": fall.ci_low,
                          "high": fall.ci_high, "perplexity": float(np.exp(paid.value))})  # fmt: skip
        own = pd.DataFrame([line for line in lines if line["method"] == method]).sort_values("strength")
        error = [own["fall"] - own["low"], own["high"] - own["fall"]]
        axes.errorbar(own["perplexity"], own["fall"], yerr=error, fmt=marker + "-", color=colour, label=name, capsize=2)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel="perplexity, times unsteered", ylabel="fewer words of the topic in an answer", xscale="log")
    axes.set_xticks(ticks := [1, 2, 5, 10, 20], [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=6.5)
    return figure, pd.DataFrame(lines)


PLANS = {
    "steering/takeover": Plan(takeover, ("doses.csv",)),
    "steering/curves": Plan(curves, ("doses.csv",)),
    "steering/methods": Plan(methods, ("metrics.json", "topics.csv")),
    "steering/transcripts": Plan(transcripts, ("transcripts.csv",), {"keep_default_na": False}),
    "steering/removal": Plan(removed, ("metrics.json",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
