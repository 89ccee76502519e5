"""Figure of the signals of S-inhibition heads: what is left of the logit difference with each version of the prompt."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

WIDTH = 0.36


def signals(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A pair of bars for each token, position as it is and inverted."""
    tokens = list(table["token"].unique())
    figure, axes = plt.subplots(figsize=(0.7 * PAGE_WIDTH, 2.6))
    for side, (position, part) in enumerate(table.groupby("position", sort=False)):
        x = np.arange(len(tokens)) + (side - 0.5) * WIDTH
        axes.bar(x, part["left"], 0.94 * WIDTH, color=PALETTE[side], label=f"position {position}")
        spread = [part["random"] - part["random_low"], part["random_high"] - part["random"]]
        label = "other heads of the same layers" if side == 0 else None
        axes.errorbar(x, part["random"], spread, fmt="o", color="0.35", markersize=3, capsize=2, label=label)
        label = "published (GPT-2 small)" if side == 0 else None
        axes.scatter(x, part["published"], marker="_", s=140, color="black", zorder=3, label=label)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(tokens)), [f"token {token}" for token in tokens])
    axes.set_ylabel("what is left of F(M)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, table
