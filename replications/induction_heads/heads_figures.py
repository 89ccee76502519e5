"""Figures of the two heads of the circuit on a readable sequence, and what the weights of all heads say."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.core.figures import PAGE_WIDTH, PALETTE, SEQUENTIAL
from replications.induction_heads.drawing import ARM_COLOURS, ARM_LABELS, arms_in

PANELS = {
    "composition_K": "K-composition",
    "composition_Q": "Q-composition",
    "composition_V": "V-composition",
    "ov_eigenvalues": "OV eigenvalues",
    "qk_eigenvalues": "QK eigenvalues",
}


def mechanism(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Attention of the two heads; letters are tokens; the second copy is where the loss is low."""
    roles = frame["role"].unique()
    figure, axes = plt.subplots(1, len(roles), figsize=(PAGE_WIDTH, 3.7))
    for ax, role in zip(axes, roles, strict=True):
        one = frame[frame["role"] == role]
        grid = one.pivot(index="query", columns="key", values="attention")
        names = one.drop_duplicates("query").sort_values("query")["query_token"].tolist()
        mesh = ax.imshow(grid, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks(range(len(names)), names, fontsize=4.5)
        ax.set_yticks(range(len(names)), names, fontsize=4.5)
        ax.set(xlabel="attended token", title=f"{role} {one['layer'].iloc[0]}.{one['head'].iloc[0]}")
        seen = {name: names.index(name) for name in names}
        for query, name in enumerate(names):
            if seen[name] < query:  # a repeated token: mark the position after its earlier copy
                ax.add_patch(
                    Rectangle((seen[name] + 0.5, query - 0.5), 1, 1, fill=False, color=PALETTE[1], linewidth=0.6)
                )
    axes[0].set_ylabel("present token")
    figure.colorbar(mesh, ax=axes.tolist(), label="attention", shrink=0.8)
    return figure, frame


def circuits(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Every head of the later layers: composition and eigenvalue scores against its prefix score, end of training."""
    last = frame[(frame["step"] == frame.groupby("arm")["step"].transform("max")) & (frame["layer"] > 0)]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.1), sharex=True)
    for ax, (column, label) in zip(axes, PANELS.items(), strict=True):
        for name in arms_in(last["arm"].tolist()):
            one = last[last["arm"] == name]
            ax.plot(
                one["prefix"],
                one[column],
                "o",
                markersize=2,
                alpha=0.6,
                color=ARM_COLOURS[name],
                label=ARM_LABELS[name],
            )
        ax.set(xlabel="prefix score", title=label)
    for ax in axes[:3]:
        ax.set_ylim(0, 1.05 * last[list(PANELS)[:3]].max().max())
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure, last
