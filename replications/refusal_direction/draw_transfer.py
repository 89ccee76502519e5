"""Step: draws what a dictionary of the untouched model makes of the tuned ones."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans

MODELS = {  # as in the table: label, colour
    "before": ("untouched", "black"),
    "tuned": ("refusing", PALETTE[1]),
    "sham": ("sham\n(food)", PALETTE[2]),
    "shuffled": ("change\nshuffled", "0.6"),
}
PANELS = {
    "moved": "shift of activations\n(share of their variance)",
    "fvu": "variance unexplained",
    "missed": "share of the shift that\nreconstructions miss",
    "delta_ce": "cross-entropy added\n(nats per token)",
}


def draw_models(rows: pd.DataFrame) -> Picture:
    """One mark per seed and a line at their mean, model by model."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.5))
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        shown = [model for model in MODELS if model != "before" or name not in ("moved", "missed")]
        for at, model in enumerate(shown):
            values = rows[rows["model"] == model][name].to_numpy()
            axis.plot(np.full(len(values), at), values, "o", color=MODELS[model][1], markersize=4, alpha=0.8)
            axis.hlines(values.mean(), at - 0.25, at + 0.25, color=MODELS[model][1], linewidth=1.4)
        axis.set_xticks(range(len(shown)), [MODELS[model][0] for model in shown], rotation=90)
        axis.set(title=title, xlim=(-0.5, len(shown) - 0.5))
        largest = rows.loc[rows["model"].isin(shown), name].max()
        axis.set_ylim(0, 1.08 * largest if largest > 0 else None)  # a scale from the data alone would cut marks off
    return figure, rows


PLANS = {"transfer/transfer": Plan(draw_models, ("models.csv",))}


if __name__ == "__main__":
    run_plans(PLANS)
