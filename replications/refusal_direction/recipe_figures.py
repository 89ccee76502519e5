"""Step: draws refusals left against the number of directions removed, a line for each recipe, random ones in grey."""

import matplotlib.pyplot as plt
import pandas as pd

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Metric


def recipes(metrics: dict[str, Metric]) -> Picture:
    """Left: refusals left, with 95 % intervals. Right: KL on harmless requests."""
    rows = []
    for name, metric in metrics.items():
        what, rest = name.split("_", 1) if "_" in name else (name, "")
        recipe, _, count = rest.rpartition("_")
        if what in ("left", "kl") and count.isdigit():
            random = next((one.value for one in metric.controls if one.name == "random"), None)
            values = {"value": metric.value, "low": metric.ci_low, "high": metric.ci_high, "random": random}
            rows.append({"what": what, "recipe": recipe, "directions": int(count), **values})
    table = pd.DataFrame(rows)
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6))
    labels = {"left": "share of harmful requests refused", "kl": "KL on harmless requests (nats)"}
    for ax, (what, label) in zip(axes, labels.items(), strict=True):
        for number, (taught, part) in enumerate(table[table["what"] == what].groupby("recipe", sort=False)):
            part = part.sort_values("directions")
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            name = "free weights" if taught == "full" else f"rank {str(taught).removeprefix('rank_')}"
            ax.errorbar(
                part["directions"], part["value"], yerr=error, fmt="o-", color=PALETTE[number], capsize=2, label=name
            )
            ax.plot(part["directions"], part["random"].astype(float), color="0.6", linewidth=0.8)
        ax.set(xlabel="directions removed", ylabel=label, xticks=sorted(set(table["directions"])))
    axes[0].set_ylim(0, 1.05)
    axes[0].legend(frameon=False)
    return figure, table


PLANS = {"recipes/recipes": Plan(recipes, ("metrics.json",))}


if __name__ == "__main__":
    run_plans(PLANS)
