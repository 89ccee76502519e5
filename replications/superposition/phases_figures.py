"""Step: draws phase diagrams beside exact and linear ones, and how the second feature enters (section 3)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from replications.superposition.drawing import edges, log_ticks
from replications.superposition.theory import border

PANELS = {"trained (ReLU)": "class", "exact optimum": "exact_class", "trained (linear control)": "linear_class"}
COLOURS = {"ignored": "0.87", "dedicated": PALETTE[4], "superposed": PALETTE[0], "none": "white"}
NAMES = {"ignored": "not represented", "dedicated": "dedicated dimension", "superposed": "superposition"}
TRIPLE = 4.0 / 7.0  # density where the three closed-form borders meet, at importance 1
HIGHEST_RATIO = 1.25  # of the right panel; higher are restarts that ended in no branch


def draw_phase_diagram(frame: pd.DataFrame) -> Figure:
    """What becomes of the second feature in every cell, of the first seed; lines are the closed-form borders."""
    cells = frame[frame["seed"] == frame["seed"].iloc[0]].sort_values(["density", "importance"])
    r, s = (np.sort(cells[name].unique()) for name in ("importance", "density"))
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.8), sharey=True)
    colours = ListedColormap(list(COLOURS.values()))
    for axes, (title, column) in zip(panels, PANELS.items(), strict=True):
        codes = cells[column].map(list(COLOURS).index).to_numpy().reshape(len(s), len(r))
        axes.pcolormesh(edges(r), edges(s), codes, cmap=colours, vmin=-0.5, vmax=len(COLOURS) - 0.5, rasterized=True)
        _borders(axes, r)
        axes.set(xscale="log", yscale="log", xlim=edges(r)[[0, -1]], ylim=edges(s)[[0, -1]], title=title)
        axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
        axes.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
        axes.minorticks_off()
        axes.set_xlabel("relative importance of feature 2")
    panels[0].set_ylabel("feature density 1 - S")
    marks = [Patch(facecolor=COLOURS[name], label=text) for name, text in NAMES.items()]
    figure.legend(
        handles=marks, loc="outside lower center", ncols=3, frameon=False, title="feature 2", title_fontsize=7
    )
    return figure


def _borders(axes: Axes, r: Float[np.ndarray, " importance"]) -> None:
    fine = np.geomspace(edges(r)[0], edges(r)[-1], 300)
    for colour, width in (("black", 1.8), ("white", 0.9)):
        axes.plot(fine, border(fine), color=colour, linewidth=width)
        axes.plot([1.0, 1.0], [TRIPLE, 2.0], color=colour, linewidth=width)


def draw_first_order(frame: pd.DataFrame, paths: pd.DataFrame) -> Picture:
    """Left: min(|w1|, |w2|), all seeds and the exact optimum. Right: loss of each branch."""
    importances = np.sort(frame["importance"].unique())
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1.25, 1.0])
    for colour, r in zip(PALETTE, importances, strict=False):
        one = frame[frame["importance"] == r]
        exact = one.drop_duplicates("density").sort_values("density")
        left.plot(exact["density"], exact["exact_weaker"], color=colour, linewidth=0.9, label=f"exact, r = {r:g}")
        left.plot(
            one["density"],
            one["weaker"],
            "o",
            color=colour,
            markersize=2.6,
            alpha=0.6,
            markeredgewidth=0,
            label=f"trained, r = {r:g}",
        )
    left.set(xscale="log", ylim=(-0.04, 1.1), xlabel="feature density s (log scale, sparser to the right)")
    left.set_ylabel(r"weaker feature, $\min(|w_1|, |w_2|)$")
    left.legend(frameon=False, loc="center", bbox_to_anchor=(0.57, 0.42))
    low, high = frame["density"].min(), frame["density"].max()
    left.set_xticks(*log_ticks([tick for tick in (1.0, 0.7, 0.5, 0.4, 0.3) if low <= 1.001 * tick <= 1.002 * high]))
    left.invert_xaxis()
    left.minorticks_off()

    unequal = paths[paths["importance"] == importances[0]]
    exact = unequal.drop_duplicates("density").set_index("density")["exact_loss"].sort_index()
    at = _onset(frame[frame["importance"] == importances[0]])
    near = (unequal["density"] > at / 1.25) & (unequal["density"] < at * 1.25)
    styles = {"one feature": ("s", PALETTE[1]), "both features": ("^", PALETTE[2])}
    for branch, (marker, colour) in styles.items():
        one = unequal[near & (unequal["branch"] == branch)]
        ratio = one["loss"].to_numpy() / exact.loc[one["density"]].to_numpy()
        one, ratio = one[ratio < HIGHEST_RATIO], ratio[ratio < HIGHEST_RATIO]
        right.plot(
            one["density"], ratio, marker, color=colour, markersize=3.5, linestyle="-", linewidth=0.8, label=branch
        )
    right.axhline(1.0, color="0.6", linewidth=0.7, zorder=0)
    right.set(
        xlabel="feature density s",
        ylabel=f"branch loss over exact, r = {importances[0]:g}",
        ylim=(0.985, HIGHEST_RATIO),
    )
    right.legend(frameon=False, loc="upper left", title="best restart that stores", title_fontsize=7)
    right.invert_xaxis()
    return figure, frame.merge(paths, on=["importance", "density"])


def _onset(one: pd.DataFrame) -> float:
    """Density where the exact weaker feature rises most."""
    exact = one.drop_duplicates("density").sort_values("density", ascending=False)
    return float(exact["density"].to_numpy()[np.diff(exact["exact_weaker"].to_numpy()).argmax()])


PLANS = {
    "phase_diagram/phase_diagram": Plan(draw_phase_diagram, ("table.csv",)),
    "first_order/first_order": Plan(draw_first_order, ("table.csv", "branches.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
