"""The circuit one fine-tune away: effects of all heads before and after, and what is left of F."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

NAMED = 5.0  # percent: heads with a larger effect are named
MARKERS = "os^Dv"


def fine_tuned(shares: pd.DataFrame, heads: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left: one mark per head and fine-tuned model. Right: one row per intervention, one mark per model."""
    old, *tuned = shares["model"].unique()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.3), width_ratios=[1, 1.15])
    for number, model in enumerate(tuned):
        style = {"marker": MARKERS[number % len(MARKERS)], "color": PALETTE[number % len(PALETTE)], "alpha": 0.75}
        left.scatter(
            heads[old], heads[model], s=13, linewidths=0, label=f"fine-tuned, seed {model.split('-')[-1]}", **style
        )
        part = shares[shares["model"] == model]
        places = [row + 0.22 * (number - (len(tuned) - 1) / 2) for row in range(len(part))]
        right.scatter(part["share"], places, s=20, linewidths=0, zorder=3, **style)
    for place, (_, row) in enumerate(heads[heads[old].abs() >= NAMED].sort_values(old).iterrows()):
        text, at = f"{row['layer']:.0f}.{row['head']:.0f}", (row[old], row[tuned].mean())
        offset, side = ((6, -6), "left") if place % 2 == 0 else ((-6, 1), "right")
        left.annotate(text, at, xytext=offset, textcoords="offset points", ha=side, fontsize=5.5, color="0.3")
    ends = [min(left.get_xlim()[0], left.get_ylim()[0]), max(left.get_xlim()[1], left.get_ylim()[1])]
    left.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)
    left.set_xlabel("effect before fine-tuning, %")
    left.set_ylabel("effect after fine-tuning, %")
    left.legend(frameon=False, fontsize=6.5)
    before = shares[shares["model"] == old]
    lines = list(range(len(before)))
    right.scatter(before["share"], lines, marker="|", s=150, color="black", linewidths=1.0, zorder=2, label=old)
    for share in (0, 1):
        right.axvline(share, color="0.8", linewidth=0.8, zorder=0)
    right.set_yticks(lines, [what.replace("_", " ") for what in before["what"]])
    right.invert_yaxis()
    right.set_xlabel("what is left of the logit difference, F / F(M)")
    right.legend(frameon=False, fontsize=6.5)
    return figure, pd.concat([shares, heads.melt(["layer", "head"], var_name="model", value_name="effect_percent")])
