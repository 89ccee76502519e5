"""Step: draws what ablating other directions than r leaves of refusal, the movement along r, and the cost."""

import matplotlib.pyplot as plt
import pandas as pd

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Estimate, Metric
from replications.refusal_direction.gradient_controls import BESIDE, LAYERS

NAMES = {
    "r": "r", "free": "free", "orthogonal": "orthogonal", "independent": "independent",
    "layer_below": "layer below", "layer_above": "layer above",
    "random": "random", "permuted": "permuted", "other_topic": "other topic", "earlier": "earlier",
}  # fmt: skip
GAPS = {"layer_below": 0.6, "random": 1.2}  # shift of this bar and of all behind it
PANELS = {"refused": "share refused", "moved": "movement along r", "kl": "KL, harmless requests (nats)"}


def gradient(metrics: dict[str, Metric]) -> Picture:
    """A panel for each of `PANELS`: learned directions, those of other layers, controls; alone and in a cone with r."""

    def alone(name: str, measure: str) -> Estimate:
        return metrics[f"orthogonal_{measure}"].control(name) if name in BESIDE else metrics[f"{name}_{measure}"]

    def cone(name: str) -> Estimate:
        return metrics["cone_refused"].control(name) if name in BESIDE else metrics[f"{name}_cone_refused"]

    rows = [_row(measure, name, "alone", alone(name, measure)) for measure in PANELS for name in NAMES]
    rows.append(_row("refused", "orthogonal", "cone", metrics["cone_refused"]))
    rows += [_row("refused", name, "cone", cone(name)) for name in (*LAYERS, *BESIDE)]
    table = pd.DataFrame(rows)
    places, shift = {}, 0.0
    for number, name in enumerate(NAMES):
        shift = GAPS.get(name, shift)
        places[name] = number + shift
    figure, axes = plt.subplots(1, len(PANELS), figsize=(PAGE_WIDTH, 2.9), layout="constrained", sharex=True)
    for ax, (measure, label) in zip(axes, PANELS.items(), strict=True):
        kinds = {"alone": "alone", "cone": "any of a cone with r"} if measure == "refused" else {"alone": ""}
        width = 0.8 / len(kinds)
        for number, (kind, text) in enumerate(kinds.items()):
            part = table[(table["measure"] == measure) & (table["kind"] == kind)]
            at = [places[name] + (number - (len(kinds) - 1) / 2) * width for name in part["direction"]]
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            ax.bar(at, part["value"], width, yerr=error, color=PALETTE[number], capsize=1.5, label=text or None,
                   error_kw={"linewidth": 0.8})  # fmt: skip
        ax.set(ylabel=label, xticks=list(places.values()))
        ax.set_xticklabels(NAMES.values(), rotation=60, ha="right")
    axes[0].set_ylim(0, 1.25)
    axes[0].legend(frameon=False, loc="upper left", ncols=2)
    return figure, table


def _row(measure: str, direction: str, kind: str, one: Estimate) -> dict[str, str | float]:
    return {"measure": measure, "direction": direction, "kind": kind,
            "value": one.value, "low": one.ci_low, "high": one.ci_high}  # fmt: skip


PLANS = {"gradient/gradient": Plan(gradient, ("metrics.json",))}


if __name__ == "__main__":
    run_plans(PLANS)
