"""Figure of how much in-context gain each ablation takes away, at the end of training and along it."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.induction_heads.drawing import ARM_LABELS, arms_in

GROUPS = {
    "induction": "induction heads",
    "previous": "previous-token heads",
    "others": "as many heads of lowest prefix score",
    "other_first": "as many other heads of the first layer",
}


def ablations(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left: gain left at the end of training per group and kind of ablation. Right: the same along training."""
    arms = arms_in(frame["arm"].tolist())
    figure, axes = plt.subplots(2, len(arms), figsize=(PAGE_WIDTH, 4.4), sharey=True, squeeze=False)
    for (top, bottom), name in zip(axes.T, arms, strict=True):
        one = frame[frame["arm"] == name]
        _bars(top, one[one["step"] == one["step"].max()])
        top.set_title(ARM_LABELS[name], fontsize=7)
        intact = one.groupby("step")["gain"].mean()
        bottom.plot(intact.index, intact, color="0.4", linewidth=1.2, label="intact")
        for (group, label), colour in zip(GROUPS.items(), PALETTE, strict=False):
            part = one[(one["group"] == group) & (one["kind"] == "pattern-preserving")]
            mean = part.groupby("step")["gain_without"].mean()
            bottom.plot(
                mean.index, mean, color=colour, linewidth=0.9, marker="o", markersize=2, label=f"without {label}"
            )
        bottom.set_xlabel("step")
    axes[0, 0].set_ylabel("in-context gain (nats)\nend of training")
    axes[1, 0].set_ylabel("in-context gain (nats)\npatterns kept")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    columns = [
        "arm",
        "step",
        "seed",
        "group",
        "kind",
        "heads",
        "gain",
        "gain_without",
        "prefix",
        "prefix_without",
        "along",
    ]
    return figure, frame[columns]


def _bars(ax: plt.Axes, one: pd.DataFrame) -> None:
    """Full (plain) and pattern-preserving (hatched) ablation of every group; dots: seeds; line: intact model."""
    for i, ((group, _), colour) in enumerate(zip(GROUPS.items(), PALETTE, strict=False)):
        for shift, (kind, hatch) in zip((-0.2, 0.2), (("full", None), ("pattern-preserving", "////")), strict=True):
            values = one[(one["group"] == group) & (one["kind"] == kind)]["gain_without"]
            ax.bar(
                i + shift, values.mean(), 0.36, color=colour, alpha=0.75, hatch=hatch, edgecolor="white", linewidth=0
            )
            ax.plot([i + shift] * len(values), values, "o", color="0.2", markersize=1.5)
    ax.axhline(one["gain"].mean(), color="0.4", linewidth=1.0)
    ax.axhline(0, color="0.7", linewidth=0.6)
    ax.set_xticks([])
