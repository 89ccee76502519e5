"""Step: draws what Nanda et al. 2023 show: curves, progress measures, Fourier spectra, neurons, circles."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.core.figures import PAGE_WIDTH, PALETTE, SEQUENTIAL, Picture, Plan, run_plans

TRAIN, TEST, RESTRICTED, EXCLUDED, GREY = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3], "0.6"
ALL, OTHER_PAIRS = "0.25", PALETTE[5]
UNTIL = 3.0  # times the step of the sudden change: what progress measures show
WIDEST = 7  # entries of a legend in one row
ARMS = {
    "grokking": "Few pairs: known early,\nanswered late",
    "large_share": "Most pairs: both at once",
    "no_decay": "No weight decay: known,\nnew pairs not answered",
    "random_answers": "Random answers:\nknown, never answered",
}
PHASES = {"memorisation": "0.93", "circuit formation": "#fdf0d5", "cleanup": "#e3f1e8"}
TURN = 2 * np.pi


def delay(frame: pd.DataFrame) -> Figure:
    """Accuracy and loss on trained and held-out pairs, every seed, in all arms."""
    figure, axes = plt.subplots(2, 4, figsize=(PAGE_WIDTH, 3.6), sharey="row", sharex="col")
    for column, (arm, title) in enumerate(ARMS.items()):
        for _, one in frame[frame["arm"] == arm].groupby("seed"):
            for row, kind in enumerate(("accuracy", "loss")):
                for part, colour in (("train", TRAIN), ("test", TEST)):
                    value = one[f"{kind}_{part}"].clip(lower=1e-6 if kind == "loss" else 0)
                    axes[row, column].plot(one["step"].clip(lower=1), value, color=colour, linewidth=0.8, alpha=0.8)
        axes[0, column].set_title(title)
        axes[1, column].set(xscale="log", xlabel="step (log scale)")
    axes[0, 0].set(ylabel="accuracy", ylim=(-0.03, 1.05))
    axes[1, 0].set(yscale="log", ylabel="loss (nats, log scale)")
    _legend(figure, {"trained pairs": TRAIN, "held-out pairs": TEST})
    return figure


def decay(frame: pd.DataFrame) -> Figure:
    """Steps to know trained pairs, and from there to half of the new ones, against rate times decay, by seed."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH * 0.62, 2.9))
    frame = frame.assign(x=frame["learning_rate"] * frame["weight_decay"])
    swept, floor = frame[frame["arm"] != "slow"], frame.loc[frame["x"] > 0, "x"].min() / 2  # where no decay is drawn
    for _, one in swept.groupby("seed"):
        some, none = one[one["x"] > 0].sort_values("x"), one[one["x"] == 0].iloc[0]
        for column, colour in (("memorised", TRAIN), ("delay", TEST)):
            axes.plot(some["x"], some[column], "o-", color=colour, markersize=2.5, linewidth=0.8, alpha=0.8)
            never = column == "delay" and none["generalised"] >= none["steps"]
            axes.plot(floor, none[column], "^" if never else "o", color=colour, markersize=4 if never else 2.5)
    slow = frame[frame["arm"] == "slow"]
    axes.plot(slow["x"], slow["delay"], "s", color=TEST, markerfacecolor="none", markersize=4)
    most = swept[swept["arm"] == "whole"]
    x = np.array([2 * floor, most["x"].max()])
    axes.plot(x, most["delay"].median() * x[1] / x, color=ALL, linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="learning rate x weight decay (log scale)", ylabel="steps (log scale)")
    ticks = sorted(swept.loc[swept["x"] > 0, "x"].unique())
    axes.set_xticks([floor, *ticks], ["none", *(f"{tick:.2g}" for tick in ticks)])
    axes.minorticks_off()
    handles = [
        Line2D([], [], color=TEST, marker="o", markersize=2.5),
        Line2D([], [], color=TRAIN, marker="o", markersize=2.5),
        Line2D([], [], color=TEST, marker="s", markerfacecolor="none", linestyle="", markersize=4),
        Line2D([], [], color=TEST, marker="^", linestyle="", markersize=4),
        Line2D([], [], color=ALL, linestyle=":"),
    ]
    labels = ["delay", "trained pairs", "delay at half of the rate", "not within the run", "inverse proportion"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def progress(frame: pd.DataFrame) -> Figure:
    """Excluded and restricted loss, Gini coefficient and squared weights; steps in units of the sudden change."""
    frame = frame.assign(time=frame["step"] / frame["before"])
    start = float((frame["memorised"] / frame["before"]).mean())
    figure, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.2), sharex=True)
    lines = {
        "Excluded loss beside held-out loss": {
            "train": TRAIN,
            "test": TEST,
            "excluded": EXCLUDED,
            "excluded_elsewhere": OTHER_PAIRS,
        },
        "Restricted loss beside held-out loss": {
            "train": TRAIN,
            "test": TEST,
            "restricted": RESTRICTED,
            "restricted_all": ALL,
        },
        "The embedding gets sparse in the Fourier basis": {"gini": PALETTE[6]},
        "Weights shrink last": {"squares": PALETTE[6]},
    }
    for place, (title, columns) in zip(axes.flat, lines.items(), strict=True):
        edges = (0.0, start, 1.0, UNTIL)
        for at, colour in enumerate(PHASES.values()):
            place.axvspan(edges[at], edges[at + 1], color=colour, linewidth=0, zorder=0)
        for _, one in frame.groupby("seed"):
            for column, colour in columns.items():
                place.plot(one["time"], one[column].clip(lower=1e-5), color=colour, linewidth=0.9, alpha=0.85)
        place.set(title=title, xlim=(0, edges[-1]))
    for place in axes[0]:
        place.set(yscale="log", ylabel="loss (nats, log scale)")
    axes[1, 0].set(ylabel="Gini coefficient", xlabel="step (1: half of the new pairs answered)")
    axes[1, 1].set(ylabel="sum of squared weights", xlabel="step (1: half of the new pairs answered)")
    colours = {"trained": TRAIN, "held out": TEST, "excluded": EXCLUDED, "restricted": RESTRICTED}
    controls = {"control: other pairs": OTHER_PAIRS, "control: all frequencies": ALL}
    _legend(figure, colours | controls, patches=PHASES)
    return figure


def _legend(figure: Figure, lines: dict[str, str], patches: dict[str, str] | None = None) -> None:
    handles: list[Line2D | Patch] = [Line2D([], [], color=colour) for colour in lines.values()]
    handles += [Patch(color=colour) for colour in (patches or {}).values()]
    labels = [*lines, *(patches or {})]
    columns = math.ceil(len(labels) / 2) if len(labels) > WIDEST else len(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def frequencies(frame: pd.DataFrame) -> Figure:
    """Norms of the embedding along cos and sin of every frequency, when memorised and when grokked."""
    seeds = sorted(frame["seed"].unique())
    figure, axes = plt.subplots(
        len(seeds), 2, figsize=(PAGE_WIDTH, 0.7 + 0.75 * len(seeds)), sharex=True, sharey="row", squeeze=False
    )
    for row, seed in zip(axes, seeds, strict=True):
        for place, network in zip(row, ("memorised", "grokked"), strict=True):
            one = frame[(frame["seed"] == seed) & (frame["network"] == network)]
            marked = one["key"] & (network == "grokked")
            for shift, wave, colour in ((-0.2, "cos", TRAIN), (0.2, "sin", RESTRICTED)):
                place.bar(one["frequency"] + shift, one[wave], width=0.4, color=np.where(marked, colour, GREY))
        row[0].set_ylabel(f"seed {seed}")
    axes[0, 0].set_title("Memorised: all frequencies")
    axes[0, 1].set_title("Grokked: few (colour: key frequencies of the logits)")
    for place in axes[-1]:
        place.set_xlabel("frequency k (bars: cos and sin)")
    figure.supylabel("norm in the embedding W_E", fontsize=8)
    return figure


def waves(frame: pd.DataFrame) -> Figure:
    """Logits and one neuron over products of waves of a and of b."""
    titles = {
        "logits_memorised": "Logits, memorised",
        "logits": "Logits, grokked:\nonly (k, k) of key k",
        "neuron_memorised": "Neuron, memorised",
        "neuron": "The same neuron, grokked:\none frequency",
    }
    figure, axes = plt.subplots(1, 4, figsize=(PAGE_WIDTH, 2.35), sharey=True)
    for place, (name, title) in zip(axes, titles.items(), strict=True):
        table = frame.pivot(index="wave_a", columns="wave_b", values=name).to_numpy().copy()
        table[0, 0] = 0.0  # the constant
        place.imshow((table / table.max()) ** 0.5, cmap=SEQUENTIAL, origin="lower", interpolation="nearest")
        step = max(2, len(table) // 10 // 2 * 2)
        ticks = np.arange(1.5, len(table), 2 * step)
        place.set_xticks(ticks, [f"{int(tick + 1) // 2}" for tick in ticks])
        place.set_yticks(ticks, [f"{int(tick + 1) // 2}" for tick in ticks])
        place.set(title=title, xlabel="wave of b (frequency)")
    axes[0].set_ylabel("wave of a (frequency)")
    return figure


def neurons(frame: pd.DataFrame) -> Figure:
    """Share of variance in one frequency, neurons per frequency, phases of inputs and output."""
    figure, (purity, counts, phases) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.5))
    shown = {"grokked": TEST, "memorised": TRAIN, "no_decay": PALETTE[3], "untrained": GREY}
    for network, colour in shown.items():
        share = frame[frame["network"] == network]["share"]
        purity.hist(
            share, bins=np.linspace(0, 1, 26).tolist(), weights=np.full(len(share), 1 / len(share)), color=colour,
            histtype="step", label=network.replace("_", " "),
        )  # fmt: skip
    purity.axvline(0.85, color="0.3", linewidth=0.7, linestyle=":")
    purity.set(xlabel="variance in the best frequency", ylabel="share of neurons", title="Neurons carry one frequency")
    purity.legend(frameon=False, loc="upper center")
    grokked = frame[frame["network"] == "grokked"]
    table = grokked.groupby(["seed", "frequency"]).size().unstack(fill_value=0)
    table = table.loc[:, table.max() >= table.to_numpy().max() / 50]
    sns.heatmap(table, cmap=SEQUENTIAL, ax=counts, cbar_kws={"label": "neurons"}, xticklabels=1)
    counts.set(xlabel="frequency", ylabel="seed", title="Clusters differ between seeds")
    counts.tick_params(axis="x", rotation=90, labelsize=6)
    counts.tick_params(axis="y", rotation=0, labelsize=6)
    pure = grokked[grokked["share"] >= 0.85]
    phases.plot(pure["input_phase"], pure["output_phase"], ".", color=TEST, markersize=2, alpha=0.4, markeredgewidth=0)
    ticks, names = [0.0, np.pi, TURN], ["0", "π", "2π"]
    phases.set(xlabel="u + v (phases of a and b)", ylabel="w (phase written)", xlim=(0, TURN), ylim=(0, TURN))
    phases.set_title("Phases add up")
    phases.set_xticks(ticks, names)
    phases.set_yticks(ticks, names)
    phases.set_aspect("equal")
    return figure


def circles(frame: pd.DataFrame, latents: pd.DataFrame) -> Picture:
    """The first seed: numbers in the planes of its key frequencies, and the latents that read the strongest circle."""
    seed = frame["seed"].min()
    numbers, tuned = frame[frame["seed"] == seed], latents[latents["seed"] == seed]
    shown = sorted(numbers["rank"].unique())[:3]
    figure, axes = plt.subplots(1, len(shown) + 1, figsize=(PAGE_WIDTH, 2.3), width_ratios=[1] * len(shown) + [1.3])
    for place, rank in zip(axes, shown, strict=False):
        one = numbers[numbers["rank"] == rank]
        place.scatter(one["x"], one["y"], c=one["turn"], cmap="twilight", s=7, linewidths=0)
        for row in one[one["number"] < 4].itertuples():
            away = 1.17 * np.array([row.x, row.y])
            place.annotate(str(row.number), away, fontsize=7, ha="center", va="center")
        place.set(title=f"W_E, frequency {one['frequency'].iloc[0]}", xticks=[], yticks=[])
        place.set_aspect("equal", adjustable="datalim")
        sns.despine(ax=place, left=True, bottom=True)
    _tuning(axes[-1], tuned)
    return figure, pd.concat([frame, latents])


def _tuning(axes: Axes, tuned: pd.DataFrame) -> None:
    count = tuned["latent"].nunique()
    if count:
        table = tuned.pivot(index="latent", columns="turn", values="activation")
        axes.imshow(table, cmap=SEQUENTIAL, aspect="auto", extent=(0, 1, count, 0), interpolation="nearest")
    axes.set(xlabel="angle of a + b (turns)", ylabel="latent", yticks=[])
    axes.set_title(f"Strongest circle:\nread by {count} latent{'' if count == 1 else 's'}")


PLANS = {
    "delay/delay": Plan(delay, ("curves.csv",)),
    "decay/decay": Plan(decay, ("times.csv",)),
    "progress/progress": Plan(progress, ("measures.csv",)),
    "circuit/frequencies": Plan(frequencies, ("frequencies.csv",)),
    "circuit/waves": Plan(waves, ("spectra.csv",)),
    "circuit/neurons": Plan(neurons, ("neurons.csv",)),
    "dictionary/circles": Plan(circles, ("circles.csv", "latents.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
