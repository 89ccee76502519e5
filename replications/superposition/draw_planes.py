"""Draws the columns of W in the hidden plane, density by density, above the dimensionality of every feature.

Reads the table of a measuring step; loads no model.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH
from replications.superposition.drawing import draw_plane, draw_shares

NAMES = {"relu": "ReLU", "linear": "linear\n(control)"}


def draw_planes(columns: pd.DataFrame) -> Figure:
    """Draws all activations in the table, the first seed in the planes and all seeds in the strip."""
    shown = columns[columns["seed"] == columns["seed"].iloc[0]]
    densities = sorted(columns["density"].unique(), reverse=True)
    activations = [name for name in NAMES if name in set(columns["activation"])]
    width, rows = PAGE_WIDTH, len(activations)
    figure = plt.figure(figsize=(width, 0.85 * rows + 2.3))
    parts = figure.subfigures(2, 1, height_ratios=[0.85 * rows, 2.2])
    top, bottom = np.asarray(parts).tolist()
    planes = top.subplots(rows, len(densities), squeeze=False)
    for line, activation in zip(planes, activations, strict=True):
        for axes, density in zip(line, densities, strict=True):
            draw_plane(axes, shown[(shown["activation"] == activation) & (shown["density"] == density)])
        line[0].set_ylabel(NAMES[activation])
    for axes, density in zip(planes[0], densities, strict=True):
        axes.set_title(f"s = {density:.2g}", fontsize=7)
    draw_shares(bottom.subplots(), columns[columns["activation"] == "relu"], legend=True)
    return figure
