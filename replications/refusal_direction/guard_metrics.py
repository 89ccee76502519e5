"""Metrics of the guardrail from the tables of every seed. Loads no model.

Requests are resampled by held-out topic of a seed; of random shifts a request counts with its mean over the draws.
"""

import numpy as np
import pandas as pd

from common.core.metrics import Metric
from replications.refusal_direction.comparisons import Items, Metrics, clustered, seeds, with_width

FORMULAS = {
    "refused": "share of requests whose refusal tokens hold over half of the first token's probability",
    "refused_by_phrase": "share of requests whose first greedy tokens, the edit active at each, are a refusal",
}
RETURN = "KL to the answer without the guard, attacked over guarded, first token"
CARRIED = "fall of the refusal metric by this part of the shift alone over that by all of it"
TINY = 1e-9  # where a clamp does nothing at all, as may be at scale smoke


def guard_metrics(conditions: pd.DataFrame, numbers: pd.DataFrame) -> Metrics:
    """How well the latent reads refusal, whether clamping it guards, and what gets past it.

    Args:
        conditions: one row per seed, model, condition, request and draw.
        numbers: one row per seed.
    """
    tables = [table for _, table in conditions.groupby("seed", sort=False)]
    clusters = [[f"{number} {topic}" for topic in topics_of(table)] for number, table in enumerate(tables)]

    def column(condition: str, name: str, model: str = "before") -> list[Items]:
        return [per_request(table, model, condition, name) for table in tables]

    def refused(effect: str, model: str = "before", by: str = "refused", **controls: str) -> Metric:
        others = {name: column(control, by, model) for name, control in controls.items()}
        values = column(effect, by, model)
        return with_width(clustered(values, clusters, unit="share", formula=FORMULAS[by], controls=others))

    def share(above: list[Items], below: list[Items], formula: str, **controls: list[Items]) -> Metric:
        whole = [values + TINY for values in below]
        return clustered(above, clusters, unit="1", formula=formula, below=whole, controls=controls)

    single = {key: [float(value) for value in numbers[key]] for key in numbers}
    formula = "area under the ROC curve of the latent, harmful against harmless, held-out topics"
    found = {"latent_auroc": seeds(single["auroc"], "1", formula, permuted=single["auroc_permuted"])}
    for name in ("fvu", "fvu_before"):
        found[name] = seeds(single[name], "1", "share of variance unexplained, held-out requests, template tokens")
    found["clamp_multiple"] = seeds(single["multiple"], "1", "clamped value over its mean on harmful requests")
    found["row_and_r"] = seeds(single["row_and_r"], "1", "cosine of the latent's encoder row with the direction")
    found["guarded_refused"] = refused("guarded", permuted_latents="guarded: permuted")
    by = "refused_by_phrase"
    found["guarded_refused_by_phrase"] = refused("guarded", by=by, permuted_latents="guarded: permuted")
    found["free_refused_by_phrase"] = refused("free", by=by)
    found["guarded_dropped_refused"] = refused("guarded, error dropped", no_guard="free")
    for name, attack in zip(("removed", "optimised"), attacks_of(conditions), strict=True):
        random = f"{attack}: random"
        found[f"{name}_refused"] = refused(attack, random_shifts=random)
        found[f"{name}_refused_by_phrase"] = refused(attack, by=by, random_shifts=random)
        found[f"{name}_dropped_refused"] = refused(f"{attack}, error dropped")
        guarded = column("guarded", "kl")
        found[f"{name}_return"] = share(column(attack, "kl"), guarded, RETURN, random_shifts=column(random, "kl"))
        start = column("guarded", "metric")
        whole, error, latents = (
            [a - b for a, b in zip(start, column(condition, "metric"), strict=True)]
            for condition in (attack, f"{attack}: error", f"{attack}: latents")
        )
        found[f"{name}_by_error"] = share(error, whole, CARRIED, other_latents=latents)
    found["zero_kept_refused"] = refused("zero, error kept", "tuned", permuted_latents="zero: permuted")
    found["zero_dropped_refused"] = refused("zero, error dropped", "tuned", reconstruction="reconstruction")
    found["zero_recomputed_refused"] = refused("zero, error recomputed", "tuned")
    return found


def per_request(table: pd.DataFrame, model: str, condition: str, name: str) -> Items:
    """One number per held-out request of one seed."""
    some = table[(table["model"] == model) & (table["condition"] == condition)]
    found: np.ndarray = some.groupby("item")[name].mean().to_numpy(dtype=np.float64)
    return found


def topics_of(table: pd.DataFrame) -> list[str]:
    """The topic of each held-out request of one seed."""
    return [str(topic) for topic in table.drop_duplicates("item").sort_values("item")["topic"]]


def attacks_of(conditions: pd.DataFrame) -> list[str]:
    """The attack by removal, and the optimised one with the largest bound."""
    words = [name.split() for name in conditions["condition"].unique() if name.startswith("optimised")]
    bounds = [word[1] for word in words if len(word) == 2 and word[1].replace(".", "", 1).isdigit()]
    return ["removed", f"optimised {max(bounds, key=float)}"]
