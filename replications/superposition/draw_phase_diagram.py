"""Draws the trained phase diagram beside the exact one and the linear control. Loads no model."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, SEQUENTIAL
from replications.superposition.drawing import edges
from replications.superposition.theory import border

PANELS = {"trained (ReLU)": "", "exact optimum": "exact_", "trained (linear control)": "linear_"}
TRIPLE = 4.0 / 7.0  # density where the three closed-form borders meet, at importance 1
HIGHEST = 1.1


def draw_phase_diagram(frame: pd.DataFrame) -> Figure:
    """Top row |w2|, bottom row min(|w1|, |w2|), of the first seed; columns as in `PANELS`."""
    cells = frame[frame["seed"] == frame["seed"].iloc[0]].sort_values(["density", "importance"])
    r, s = (np.sort(cells[name].unique()) for name in ("importance", "density"))
    figure, grid = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 4.4), sharex=True, sharey=True)
    scale = Normalize(0.0, HIGHEST)
    for column, (title, prefix) in enumerate(PANELS.items()):
        first, second = (np.abs(cells[f"{prefix}{name}"].to_numpy().reshape(len(s), len(r))) for name in ("w1", "w2"))
        for axes, values in zip(grid[:, column], (second, np.minimum(first, second)), strict=True):
            axes.pcolormesh(edges(r), edges(s), values, norm=scale, cmap=SEQUENTIAL, rasterized=True)
            _borders(axes, r)
            axes.set(xscale="log", yscale="log", xlim=edges(r)[[0, -1]], ylim=edges(s)[[0, -1]])
            axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
            axes.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
            axes.minorticks_off()
        grid[0, column].set_title(title)
        grid[1, column].set_xlabel("importance of feature 2")
    for axes in grid[:, 0]:
        axes.set_ylabel("feature density s")
    labels = [(0.14, 0.62, "ignored"), (2.2, 0.62, "dedicated"), (0.45, 0.045, "superposed")]
    for x, y, text in labels:
        colour = "black" if text == "dedicated" or text == "superposed" else "white"
        grid[0, 1].text(x, y, text, color=colour, fontsize=7)
    for axes, label in ((grid[0], "$|w_2|$: is feature 2 stored?"), (grid[1], r"$\min(|w_1|, |w_2|)$: are both?")):
        figure.colorbar(ScalarMappable(scale, SEQUENTIAL), ax=axes, label=label, pad=0.02, fraction=0.05)
    return figure


def _borders(axes: Axes, r: Float[np.ndarray, " importance"]) -> None:
    fine = np.geomspace(edges(r)[0], edges(r)[-1], 300)
    for colour, width in (("black", 1.8), ("white", 0.9)):
        axes.plot(fine, border(fine), color=colour, linewidth=width)
        axes.plot([1.0, 1.0], [TRIPLE, 2.0], color=colour, linewidth=width)
