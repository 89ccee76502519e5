"""Step: draws what the heads of a language model look at, and what is left of the gain without them."""

from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.cli import run
from common.plotting import PAGE_WIDTH, PALETTE, SEQUENTIAL, save_figure, use_style

SCORES = {"induction": "induction", "previous": "previous token", "duplicate": "duplicate token"}
GROUPS = {
    "induction": "induction heads",
    "induction_others": "controls of the same layers",
    "previous": "previous-token heads",
    "previous_others": "controls of the same layers ",
}


def draw_model(*, table: Path, figure: Literal["score_maps", "repeats"], caption: Path, out: Path) -> None:
    """Draws one figure from the table of its step. `out` is the SVG."""
    frame = pd.read_csv(table)
    use_style()
    drawn = {"score_maps": _score_maps, "repeats": _repeats}[figure](frame)
    save_figure(drawn, out.with_suffix(""), frame, caption, [table])


def _score_maps(frame: pd.DataFrame) -> Figure:
    """Layer by head, one map per score."""
    figure, axes = plt.subplots(1, len(SCORES), figsize=(PAGE_WIDTH, 3.4), sharey=True)
    for ax, (column, label) in zip(axes, SCORES.items(), strict=True):
        grid = frame.pivot(index="layer", columns="head", values=column)
        mesh = ax.imshow(grid, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.set(title=label, xlabel="head")
    axes[0].set_ylabel("layer")
    figure.colorbar(mesh, ax=axes.tolist(), label="score")
    return figure


def _repeats(frame: pd.DataFrame) -> Figure:
    """Gain and prefix score left, per group, full ablation and patterns kept."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6))
    for ax, what, label in zip(
        axes, ("gain", "prefix"), ("gain (nats)", "prefix score of induction heads"), strict=True
    ):
        for i, (group, colour) in enumerate(zip(GROUPS, PALETTE, strict=False)):
            for shift, (kind, hatch) in zip((-0.2, 0.2), (("full", None), ("pattern-preserving", "////")), strict=True):
                values = frame[(frame["group"] == group) & (frame["kind"] == kind)][f"{what}_without"]
                ax.bar(
                    i + shift,
                    values.mean(),
                    0.36,
                    color=colour,
                    alpha=0.75,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0,
                )
                ax.plot([i + shift] * len(values), values, "o", color="0.2", markersize=1.5)
        ax.axhline(frame[what].mean(), color="0.4", linewidth=1.0)
        ax.set_xticks(range(len(GROUPS)), [name.replace(" of the", "\nof the") for name in GROUPS.values()], fontsize=6)
        ax.set_ylabel(f"{label} left")
    return figure


if __name__ == "__main__":
    run(draw_model)
