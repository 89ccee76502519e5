"""Figures of circuit_tracing, drawn from metrics alone: the cosine of every seed, for true and shuffled labels."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from common.core.figures import COLUMN_WIDTH, Plan, run_plans
from common.core.metrics import Metric


def probe(metrics: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """One mark per seed."""
    cosine = metrics["cosine"]
    kinds = {"true labels": cosine, "shuffled labels": cosine.control("shuffled_labels")}
    frame = pd.DataFrame(
        [{"labels": kind, "cosine": value} for kind, found in kinds.items() for value in found.per_seed or []]
    )
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2))
    axes.axhline(0.0, color="0.8", linewidth=0.8)
    sns.stripplot(frame, x="labels", y="cosine", hue="labels", ax=axes, size=5, jitter=0.12, legend=False)
    axes.set(xlabel="", ylabel="cosine of probe and direction", ylim=(-1.05, 1.05))
    return figure, frame


PLANS = {"probe/probe": Plan(probe, ("metrics.json",))}


if __name__ == "__main__":
    run_plans(PLANS)
