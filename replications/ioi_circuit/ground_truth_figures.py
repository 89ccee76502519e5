"""Figure: scores of planted and other nodes, finder by finder, on the planted model and on its twin."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

FINDERS = {
    "path_patching": "path\npatching",
    "activation_patching": "activation\npatching",
    "attribution": "attribution\npatching",
    "random": "random",
}


def planted(table: pd.DataFrame) -> Figure:
    """Planted circuit left, twin right, one column per finder."""
    largest = table[table["model"] == "planted"].groupby(["seed", "finder"])["score"].max().rename("largest")
    table = table.join(largest, on=["seed", "finder"])
    table["relative"] = table["score"] / table["largest"]
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.8), sharey=True)
    generator = np.random.default_rng(0)
    for axes, (model, title) in zip(panels, {"planted": "planted circuit", "twin": "twin"}.items(), strict=True):
        for column, finder in enumerate(FINDERS):
            part = table[(table["model"] == model) & (table["finder"] == finder)]
            for real, shift, colour in ((False, 0.17, "0.6"), (True, -0.17, PALETTE[0])):
                one = part[part["planted"].notna() == real]
                x = column + shift + generator.uniform(-0.1, 0.1, len(one))
                face = colour if real else "none"
                label = ("planted node" if real else "other node") if column == 0 else None
                axes.scatter(x, one["relative"], s=8, facecolors=face, edgecolors=colour, linewidths=0.6, label=label)
        axes.set_xticks(range(len(FINDERS)), list(FINDERS.values()))
        axes.set_title(title, loc="left")
    panels[0].set_ylabel("score / largest score\nin the planted model")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
