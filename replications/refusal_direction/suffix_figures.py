"""Step: draws what suffixes do to refusals, to the projection on r, and to the attention of the heads that write r."""

import matplotlib.pyplot as plt
import pandas as pd

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Estimate, Metric

SUFFIXES = {
    "none": "no suffix",
    "random": "random",
    "searched": "no gradient",
    "optimised": "optimised",
}
PANELS = {
    "share refused": ["refused"],
    "projection on r": ["projection"],
    "attention to the instruction": ["attention", "attention_others"],
    "attention to the suffix": ["attention_suffix"],
}
LABELS = {"attention": "heads that write r", "attention_others": "other heads"}
NOTHING = Estimate(value=0, ci_low=0, ci_high=0)
"""Where there is no suffix, no head looks at it."""


def suffix(metrics: dict[str, Metric]) -> Picture:
    """A panel for each of `PANELS`, a bar for each suffix, with 95 % intervals."""
    rows = []
    for names in PANELS.values():
        for name in names:
            found: dict[str, Estimate] = {control.name: control for control in metrics[name].controls}
            found["optimised"] = metrics[name]
            for key in SUFFIXES:
                one = found.get(key, NOTHING)
                rows.append(
                    {"measure": name, "suffix": key, "value": one.value, "low": one.ci_low, "high": one.ci_high}
                )
    table = pd.DataFrame(rows)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.6), layout="constrained")
    for ax, (label, names) in zip(axes, PANELS.items(), strict=True):
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            part = table[table["measure"] == name].set_index("suffix").loc[list(SUFFIXES)]
            places = [at + (number - (len(names) - 1) / 2) * width for at in range(len(part))]
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            ax.bar(places, part["value"], width, yerr=error, color=PALETTE[number], capsize=2, label=LABELS.get(name))
        ax.set(ylabel=label, xticks=range(len(SUFFIXES)))
        ax.set_xticklabels(SUFFIXES.values(), rotation=30, ha="right")
    axes[0].set_ylim(0, 1.05)
    axes[2].legend(frameon=False)
    return figure, table


PLANS = {"suffix/suffix": Plan(suffix, ("metrics.json",))}


if __name__ == "__main__":
    run_plans(PLANS)
