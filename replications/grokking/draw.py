"""Step: draws the accuracy curves with their delays, and what the neurons have learned."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans

TRAIN, TEST, NOISE = PALETTE[0], PALETTE[1], PALETTE[6]
TURN = 2 * np.pi


def delay(frame: pd.DataFrame) -> Figure:
    """Accuracy on trained and held-out pairs, every seed; smallest and largest share, and the controls."""
    main = frame[frame["condition"] == "weight decay"]
    fractions = sorted(main["fraction"].unique())
    shown = [fractions[0], fractions[-1]]
    figure, axes = plt.subplots(1, 4, figsize=(PAGE_WIDTH, 2.1), sharey=True)
    for place, fraction in zip(axes[:2], shown, strict=True):
        _curve(place, main[main["fraction"] == fraction])
        place.set_title(f"{fraction:.0%} of the pairs trained on")
    for place, condition in zip(axes[2:], ("no weight decay", "random answers"), strict=True):
        rows = frame[frame["condition"] == condition]
        _curve(place, rows)
        place.set_title(f"{condition}, {rows['fraction'].iloc[0]:.0%}")
    axes[0].set_ylabel("accuracy")
    for height, text, colour in ((0.5, "trained pairs", TRAIN), (0.4, "held-out pairs", TEST)):
        axes[-1].text(0.97, height, text, color=colour, transform=axes[-1].transAxes, ha="right", fontsize=7)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame) -> None:
    for _, one in rows.groupby("seed"):
        axes.plot(one["step"].clip(lower=1), one["train"], color=TRAIN, linewidth=0.9, alpha=0.8)
        axes.plot(one["step"].clip(lower=1), one["test"], color=TEST, linewidth=0.9, alpha=0.8)
    axes.set(xscale="log", xlabel="step (log scale)", ylim=(-0.03, 1.05))


def features(frame: pd.DataFrame) -> Figure:
    """Share of power in one frequency, phases of inputs and output, neurons per frequency."""
    figure, (purity, phases, counts) = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.3))
    colours = {"true answers": TEST, "random answers": NOISE}
    for labels, colour in colours.items():
        rows = frame[frame["labels"] == labels]
        sns.histplot(
            rows, x="purity", stat="probability", bins=np.linspace(0, 1, 26), color=colour, label=labels, ax=purity,
            element="step", alpha=0.35,
        )  # fmt: skip
    purity.set(xlabel="share of power in one frequency", ylabel="share of neurons", xlim=(0, 1))
    purity.legend(frameon=False, loc="upper center")
    true = frame[frame["labels"] == "true answers"]
    phases.plot(true["input_phase"], true["output_phase"], ".", color=TEST, markersize=2, alpha=0.5, markeredgewidth=0)
    ticks, names = [0.0, np.pi, TURN], ["0", "π", "2π"]
    phases.set(xlabel="u + v (phases of the inputs)", ylabel="w (phase of the output)", xlim=(0, TURN), ylim=(0, TURN))
    phases.set_xticks(ticks, names)
    phases.set_yticks(ticks, names)
    phases.set_aspect("equal")
    table = true.groupby(["seed", "frequency"]).size().unstack(fill_value=0)
    sns.heatmap(table, cmap="viridis", ax=counts, cbar_kws={"label": "neurons"}, xticklabels=5)
    counts.set(xlabel="frequency", ylabel="seed")
    counts.tick_params(rotation=0)
    return figure


PLANS = {
    "delay/delay": Plan(delay, ("curves.csv",)),
    "features/features": Plan(features, ("neurons.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
