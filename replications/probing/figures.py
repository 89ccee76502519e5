"""Figures of probing: reading beside acting, reading by layer, and transfer."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, DIVERGING, PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Estimate, Metric

GREY = "0.6"
TOPICS = {"capitals": "capitals", "opposites": "opposites", "sums": "sums", "larger": "larger than"}


def bars(axes: Axes, rows: dict[str, tuple[Estimate, str]]) -> pd.DataFrame:
    """Horizontal dots with intervals, first row on top."""
    for place, (found, colour) in enumerate(rows.values()):
        axes.plot([found.ci_low, found.ci_high], [place, place], color=colour, linewidth=1.5)
        axes.plot(found.value, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    return pd.DataFrame(
        [{"row": name, **found.model_dump(include={"value", "ci_low", "ci_high"})} for name, (found, _) in rows.items()]
    )


def read_and_act(metrics: dict[str, Metric]) -> Picture:
    """What is read, beside what acts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    reads, negated, acts = metrics["reads"], metrics["reads_negated"], metrics["acts"]
    first = {
        "direction": (reads, PALETTE[0]),
        "direction, negated": (negated, PALETTE[1]),
        "fitted to negated, negated": (negated.control("trained_on_negated"), PALETTE[2]),
        "probability of statement": (reads.control("log_probability"), GREY),
        "model's own answer": (reads.control("model_answer"), GREY),
        "bag of words": (reads.control("bag_of_words"), GREY),
        "shuffled labels": (reads.control("shuffled_labels"), GREY),
    }
    second = {
        "direction": (acts, PALETTE[0]),
        "random direction": (acts.control("random"), GREY),
        "unembedding": (acts.control("logit_lens"), GREY),
        "whole stream": (metrics["acts_whole_stream"], PALETTE[2]),
    }
    left.axvline(0.5, color="0.8", linewidth=0.8)
    right.axvline(0, color="0.8", linewidth=0.8)
    drawn = [bars(left, first).assign(panel="read"), bars(right, second).assign(panel="act")]
    left.set(xlim=(0, 1.02), xlabel="AUC, true against false", title="what can be read")
    right.set(xlim=(-0.5, 1.02), xlabel="move of the answer (its SD)", title="what acts on the answer")
    return figure, pd.concat(drawn)


def layers(table: pd.DataFrame) -> Figure:
    """AUC by layer, affirmative and negated."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    axes.axhline(0.5, color="0.8", linewidth=0.8)
    named = table.assign(
        topic=table["topic"].map(TOPICS), statements=table["negated"].map({False: "affirmative", True: "negated"})
    )
    sns.lineplot(named, x="layer", y="auc", hue="topic", style="statements", ax=axes, linewidth=1.2)
    axes.axvline(table[table["judged"]]["layer"].iloc[0], color=GREY, linewidth=0.8, linestyle=":")
    axes.set(ylim=(-0.02, 1.02), ylabel="AUC, true against false", xlabel="layer")
    sns.move_legend(axes, "center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def transfer(table: pd.DataFrame, readings: pd.DataFrame) -> Picture:
    """Direction of one topic on another."""
    negated = readings[readings["negated"]].assign(source=lambda rows: rows["topic"], topic="own, negated")
    both = pd.concat([table, negated])[["source", "topic", "direction"]]
    order = list(TOPICS)
    grid = both.groupby(["source", "topic"])["direction"].mean().unstack().loc[order, [*order, "own, negated"]]
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.3))
    labels = [*TOPICS.values()]
    sns.heatmap(
        grid, ax=axes, cmap=DIVERGING, vmin=0, vmax=1, annot=True, fmt=".2f", cbar=False, annot_kws={"size": 7},
        xticklabels=[*labels, "own, negated"], yticklabels=labels,
    )  # fmt: skip
    axes.set(xlabel="judged on", ylabel="direction of")
    axes.tick_params(axis="x", rotation=30)
    axes.tick_params(axis="y", rotation=0)
    return figure, grid.stack().rename("auc").reset_index()  # type: ignore[call-overload]


PLANS = {
    "truth/read_and_act": Plan(read_and_act, ("metrics.json",)),
    "truth/layers": Plan(layers, ("layers.csv",)),
    "truth/transfer": Plan(transfer, ("transfer.csv", "readings.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
