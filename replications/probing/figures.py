"""Figures of probing: reading beside acting, task vectors, massive activations, lenses and selectivity."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, DIVERGING, PAGE_WIDTH, PALETTE, Picture, Plan, dots, run_plans
from common.core.metrics import Estimate, Metric

GREY = "0.6"
LENSES = {
    "tuned": "tuned lens",
    "logit": "logit lens",
    "bias_only": "bias only",
    "shuffled_layer": "map of another layer",
    "constant": "constant",
}
TOPICS = {"capitals": "capitals", "opposites": "opposites", "sums": "sums", "larger": "larger than"}
CALIBRATION = "calibration topics"


def read_and_act(metrics: dict[str, Metric]) -> Picture:
    """What is read, beside what acts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6))
    reads, negated, acts = metrics["reads"], metrics["reads_negated"], metrics["acts"]
    first = {
        "direction": (reads, PALETTE[0]),
        "direction, negated": (negated, PALETTE[1]),
        "fitted to negated, negated": (negated.control("trained_on_negated"), PALETTE[2]),
        "trivial reader": (reads.control("trivial_reader"), GREY),
        "trivial reader, negated": (negated.control("trivial_reader"), GREY),
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
    drawn = [dots(left, first, seeds=False).assign(panel="read"), dots(right, second, seeds=False).assign(panel="act")]
    left.set(xlim=(0, 1.02), xlabel="AUC, true against false", title="what can be read")
    right.set(xlim=(-0.5, 1.02), xlabel="move of the answer (its SD)", title="what acts on the answer")
    return figure, pd.concat(drawn)


def layers(table: pd.DataFrame) -> Figure:
    """AUC by layer, affirmative and negated."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    axes.axhline(0.5, color="0.8", linewidth=0.8)
    deciding = table[~table["topic"].isin(TOPICS)]
    for _, one in deciding.groupby("topic"):
        axes.plot(one["layer"], one["auc"], color="0.85", linewidth=0.8, zorder=0)
    means = deciding.groupby("layer")["auc"].mean()
    axes.plot(means.index, means, color=GREY, linewidth=1.6, label=f"{CALIBRATION}, mean")
    named = table[table["topic"].isin(TOPICS)].assign(
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


def tasks(metrics: dict[str, Metric], blocks: pd.DataFrame) -> Picture:
    """Share of words answered, and by block."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.5))
    own = metrics["own_vector"]
    rows: dict[str, tuple[Estimate, str]] = {
        "demonstrations": (metrics["few_shot"], PALETTE[2]),
        "own vector added": (own, PALETTE[0]),
        "own stream instead": (metrics["replaced"], PALETTE[5]),
        **{control.name.replace("_", " "): (control, GREY) for control in own.controls},
    }
    drawn = dots(left, rows, seeds=False)
    left.set(xlim=(-0.03, 1.03), xlabel="share of unseen words answered", title="one vector, no demonstrations")
    sns.lineplot(blocks, x="block", y="answered", hue="task", ax=right, marker="o", markersize=3, linewidth=1.2)
    right.axvline(blocks[blocks["judged"]]["block"].iloc[0], color=GREY, linewidth=0.8, linestyle=":")
    right.set(
        ylim=(-0.03, 1.03), xlabel="block before which it is added", ylabel="share answered", title="by block and task"
    )
    sns.move_legend(right, "upper left", frameon=False, title=None)
    return figure, pd.concat([drawn, blocks])


def massive(metrics: dict[str, Metric], table: pd.DataFrame, stream: pd.DataFrame) -> Picture:
    """The coordinate in one document, over layers, and what setting it does."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.4), width_ratios=[1, 1.15, 1])
    for shade, (channel, rows) in enumerate(stream.groupby("channel", sort=False)):
        left.plot(
            rows["position"], rows["magnitude"], "o-", markersize=3, linewidth=1, color=PALETTE[shade], label=channel
        )
    left.set(yscale="log", xlabel="position", ylabel="magnitude", title="five channels, one document")
    left.set_xticks(range(0, int(stream["position"].max()) + 1, 2))
    left.legend(frameon=False, title="channel", title_fontsize=7, ncols=2)
    colours = dict(zip(table["rank"].unique(), [PALETTE[0], PALETTE[5], PALETTE[2], PALETTE[1], GREY], strict=True))
    sns.lineplot(table, x="layer", y="magnitude", hue="rank", palette=colours, ax=middle, linewidth=1.2, legend=False)
    at = int(table["layer"].max() * 0.7)
    for rank, height in table[table["layer"] == at].set_index("rank")["magnitude"].items():
        up = rank in ("top 1", "top 2")
        middle.annotate(
            str(rank), (at, height), (0, 3 if up else -3), textcoords="offset points", color=colours[rank],
            fontsize=6, ha="center", va="bottom" if up else "top",
        )  # fmt: skip
    middle.axvline(table[table["judged"]]["layer"].iloc[0], color=GREY, linewidth=0.8, linestyle=":")
    middle.set(yscale="log", ylim=(None, 1e5), ylabel="magnitude", title="largest of a document, by layer")
    zeroed = metrics["zeroed"]
    edits: dict[str, tuple[Estimate, str]] = {
        "set to zero": (zeroed, PALETTE[1]),
        "half kept": (metrics["halved"], PALETTE[5]),
    }
    edits |= {control.name.replace("_", " "): (control, GREY) for control in zeroed.controls}
    drawn = dots(right, edits, seeds=False)
    right.set(xlabel="rise of the loss [nats]", title="what an edit costs")
    return figure, pd.concat([table, stream, drawn])


def lenses(table: pd.DataFrame) -> Figure:
    """KL divergence by layer."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    colours = dict(zip(LENSES, [PALETTE[0], PALETTE[1], "0.35", "0.55", "0.75"], strict=True))
    named = table.assign(lens=table["lens"].map(LENSES))
    sns.lineplot(
        named, x="layer", y="kl", hue="lens", palette={LENSES[name]: colour for name, colour in colours.items()},
        ax=axes, marker="o", markersize=3, linewidth=1.2,
    )  # fmt: skip
    axes.set(yscale="symlog", ylim=(0, None), xlabel="layer", ylabel="KL divergence from the output [nats]")
    sns.move_legend(axes, "center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title=None)
    return figure


def selectivity(table: pd.DataFrame) -> Picture:
    """Accuracy of linear probes by layer, and selectivity."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
    columns = {"role": "role", "control": "control task", "by_name": "usual role of the name"}
    for column, colour in zip(columns, [PALETTE[0], GREY, "0.8"], strict=True):
        axes.plot(table["layer"], table[column], "o-", markersize=3, linewidth=1.2, color=colour, label=columns[column])
    above = table["role"] >= table["control"]
    for where, colour, label in ((above, PALETTE[0], "selectivity"), (~above, PALETTE[1], "negative selectivity")):
        span = (table["layer"], table["control"], table["role"])
        axes.fill_between(*span, where=where, interpolate=True, color=colour, alpha=0.15, linewidth=0, label=label)
    axes.set(ylim=(0, 1.02), xlabel="layer", ylabel="accuracy on unseen files")
    axes.legend(frameon=False, loc="lower left")
    return figure, table


PLANS = {
    "truth/read_and_act": Plan(read_and_act, ("metrics.json",)),
    "truth/layers": Plan(layers, ("layers.csv",)),
    "truth/transfer": Plan(transfer, ("transfer.csv", "readings.csv")),
    "task_vectors/tasks": Plan(tasks, ("metrics.json", "blocks.csv")),
    "massive_activations/massive": Plan(massive, ("metrics.json", "layers.csv", "stream.csv")),
    "lenses/lenses": Plan(lenses, ("layers.csv",)),
    "selectivity/selectivity": Plan(selectivity, ("layers.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
