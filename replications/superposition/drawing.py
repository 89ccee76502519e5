"""Pieces that several figures of this replication share."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from common.core.figures import PALETTE

FORGOTTEN = 0.1  # norm below which a feature is not drawn; as in `geometry`

GUIDES = {1.0: "1: own dimension", 0.5: "1/2: digon", 0.4: "2/5: pentagon"}
REACH = 1.3  # half width of a plane panel


def draw_plane(axes: Axes, columns: pd.DataFrame) -> None:
    """The stored columns W_i of one model as arrows in the hidden plane; one colour per feature."""
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="0.85", linewidth=0.6, zorder=0)
    shown = columns[columns["norm"] >= FORGOTTEN]
    for feature, x, y in zip(*(shown[name].tolist() for name in ("feature", "x", "y")), strict=True):
        colour = PALETTE[feature % len(PALETTE)]
        axes.plot([0, x], [0, y], color=colour, linewidth=1.1, solid_capstyle="round")
        axes.plot(x, y, "o", color=colour, markersize=3.4)


def log_ticks(values: list[float]) -> tuple[list[float], list[str]]:
    """Positions and labels of a density axis."""
    return values, [f"{value:g}" for value in values]


def edges(centres: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " edge"]:
    """Borders of cells whose centres are evenly spaced on a log scale."""
    logs = np.log(centres)
    half = (logs[1] - logs[0]) / 2
    return np.asarray(np.exp(np.append(logs - half, logs[-1] + half)))


def draw_shares(axes: Axes, columns: pd.DataFrame) -> None:
    """Dimensionality of every feature of every seed against density (log, dense on the left)."""
    features, seeds = sorted(columns["feature"].unique()), columns["seed"].nunique()
    for feature in features:
        one = columns[columns["feature"] == feature]
        shift = 1.0 + 0.02 * (feature - (len(features) - 1) / 2)  # apart on the log axis
        colour = PALETTE[int(feature) % len(PALETTE)]
        style: dict[str, Any] = {"color": colour, "markersize": 2.6, "alpha": 0.75, "label": f"feature {feature + 1}"}
        axes.plot(one["density"] * shift, one["dimensionality"], "o", markeredgewidth=0, **style)
    axes.set(xscale="log", ylim=(-0.06, 1.08), xlabel="feature density s (log scale, sparser to the right)")
    axes.invert_xaxis()
    axes.set_ylabel(f"dimensionality $D_i$\n({seeds} seeds)")
    axes.set_xticks(*log_ticks([1.0, 0.5, 0.2, 0.1, 0.05] + ([0.02] if columns["density"].min() < 0.04 else [])))
    axes.minorticks_off()
    for share, label in GUIDES.items():
        axes.axhline(share, color="0.8", linewidth=0.7, zorder=0)
        axes.annotate(
            label, (1.005, share), xycoords=("axes fraction", "data"), fontsize=6.5, va="center", color="0.35"
        )
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(features), frameon=False, columnspacing=0.9)
