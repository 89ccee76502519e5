"""Draws the phase diagram of a third feature in two hidden units: trained, exact, linear control."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.core.figures import PAGE_WIDTH, PALETTE
from replications.superposition.drawing import edges

CLASSES = {"ignored": "0.85", "superposed": PALETTE[0], "dedicated": PALETTE[4]}
PANELS = {"trained (ReLU)": "class", "exact optimum": "exact_class", "trained (linear control)": "linear_class"}


def draw_third_feature(frame: pd.DataFrame) -> Figure:
    """Classes of the first seed, with the closed-form borders."""
    cells = frame[frame["seed"] == frame["seed"].iloc[0]].sort_values(["density", "importance"])
    r, s = (np.sort(cells[name].unique()) for name in ("importance", "density"))
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.5), sharey=True)
    colours = ListedColormap(list(CLASSES.values()))
    fine = np.geomspace(edges(r)[0], 1.0, 200)
    for axes, (title, column) in zip(panels, PANELS.items(), strict=True):
        codes = cells[column].map(list(CLASSES).index).to_numpy().reshape(len(s), len(r))
        axes.pcolormesh(edges(r), edges(s), codes, cmap=colours, vmin=-0.5, vmax=2.5, rasterized=True)
        for colour, width in (("black", 1.8), ("white", 0.9)):
            axes.plot(fine, 4 * fine / (2 + 5 * fine), color=colour, linewidth=width)
            axes.plot([1.0, 1.0], [edges(s)[0], edges(s)[-1]], color=colour, linewidth=width)
        axes.set(xscale="log", yscale="log", xlim=edges(r)[[0, -1]], ylim=edges(s)[[0, -1]], title=title)
        axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
        axes.set_yticks([0.1, 1], ["0.1", "1"])
        axes.minorticks_off()
        axes.set_xlabel("importance of feature 3")
    panels[0].set_ylabel("feature density s")
    marks = [Patch(facecolor=colour, label=name) for name, colour in CLASSES.items()]
    figure.legend(handles=marks, loc="outside right center", frameon=False, title="feature 3", title_fontsize=7)
    return figure
