"""Metrics of the guardrail from the tables of every seed. Loads no model.

Requests are resampled by held-out topic of a seed; of random shifts a request counts with its mean over the draws.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.files import read_json
from common.core.metrics import Metric
from replications.refusal_direction.tables import Metrics, clustered, pairs, ratio, seeds

FORMULAS = {
    "refused": "share of requests whose refusal tokens hold over half of the first token's probability",
    "refused_by_phrase": "share of requests whose first greedy tokens, the edit active at each, are a refusal",
}
Items = Float[np.ndarray, " item"]
TINY = 1e-9  # where a clamp does nothing at all, as may be at scale smoke


class Guarded(NamedTuple):
    """What `guardrail` left of one seed."""

    table: pd.DataFrame
    numbers: dict[str, float]

    def column(self, model: str, condition: str, name: str) -> Float[np.ndarray, " item"]:
        """One number per held-out request."""
        some = self.table[(self.table["model"] == model) & (self.table["condition"] == condition)]
        found: np.ndarray = some.groupby("item")[name].mean().to_numpy(dtype=np.float64)
        return found

    @property
    def topics(self) -> list[str]:
        """The topic of each held-out request."""
        return [str(topic) for topic in self.table.drop_duplicates("item").sort_values("item")["topic"]]

    @property
    def attacks(self) -> list[str]:
        """The attack by removal, and the optimised one with the largest bound."""
        names = [name for name in self.table["condition"].unique() if name.startswith("optimised")]
        whole = [name for name in names if name.split()[1].replace(".", "", 1).isdigit() and len(name.split()) == 2]
        return ["removed", max(whole, key=lambda name: float(name.split()[1]))]


def read_guard(numbers: Path) -> Guarded:
    """The folder of one `guard.json`."""
    return Guarded(pd.read_csv(numbers.with_name("conditions.csv")), read_json(numbers))


def guardrail(guards: list[Guarded]) -> Metrics:
    """How well the latent reads refusal, whether clamping it guards, and what gets past it."""
    clusters = [[f"{number} {topic}" for topic in guard.topics] for number, guard in enumerate(guards)]

    def refused(condition: str, model: str = "before", minus: str | None = None, by: str = "refused") -> Metric:
        values = [guard.column(model, condition, by) for guard in guards]
        if minus is not None:
            values = [a - guard.column(model, minus, by) for a, guard in zip(values, guards, strict=True)]
        return clustered(values, clusters, "share", FORMULAS[by])

    def against(
        name: str, control_name: str, effect: str, control: str, model: str = "before", by: str = "refused"
    ) -> Metrics:
        return {
            name: refused(effect, model, by=by),
            f"{name}_{control_name}": refused(control, model, by=by),
            f"{name}_minus_{control_name}": refused(effect, model, control, by),
        }

    def share(above: list[Items], below: list[Items], formula: str) -> Metric:
        return ratio(above, [values + TINY for values in below], clusters, formula)

    numbers = {key: [guard.numbers[key] for guard in guards] for key in guards[0].numbers}
    formula = "area under the ROC curve of the latent, harmful against harmless, held-out topics"
    found = pairs("latent_auroc", numbers["auroc"], numbers["auroc_permuted"], "permuted", "1", formula)
    for name in ("fvu", "fvu_before"):
        found[name] = seeds(numbers[name], "1", "share of variance unexplained, held-out requests, template tokens")
    found["clamp_multiple"] = seeds(numbers["multiple"], "1", "clamped value over its mean on harmful requests")
    found["row_and_r"] = seeds(numbers["row_and_r"], "1", "cosine of the latent's encoder row with the direction")
    found |= against("guarded_refused", "permuted", "guarded", "guarded: permuted")
    found |= against("guarded_refused_by_phrase", "permuted", "guarded", "guarded: permuted", by="refused_by_phrase")
    found["free_refused_by_phrase"] = refused("free", by="refused_by_phrase")
    found |= against("guarded_dropped_refused", "free", "guarded, error dropped", "free")
    for name, attack in zip(("removed", "optimised"), guards[0].attacks, strict=True):
        found |= against(f"{name}_refused", "random", attack, f"{attack}: random")
        by_phrase = f"{name}_refused_by_phrase"
        found |= against(by_phrase, "random", attack, f"{attack}: random", by="refused_by_phrase")
        found[f"{name}_dropped_refused"] = refused(f"{attack}, error dropped")
        kl = {
            key: [guard.column("before", condition, "kl") for guard in guards]
            for key, condition in {"attack": attack, "random": f"{attack}: random", "guarded": "guarded"}.items()
        }
        formula = "KL to the answer without the guard, attacked over guarded, first token"
        gap = [a - b for a, b in zip(kl["attack"], kl["random"], strict=True)]
        found[f"{name}_return"] = share(kl["attack"], kl["guarded"], formula)
        found[f"{name}_return_random"] = share(kl["random"], kl["guarded"], formula)
        found[f"{name}_return_minus_random"] = share(gap, kl["guarded"], formula)
        fall = {
            key: [
                guard.column("before", "guarded", "metric") - guard.column("before", condition, "metric")
                for guard in guards
            ]
            for key, condition in {"all": attack, "error": f"{attack}: error", "latents": f"{attack}: latents"}.items()
        }
        formula = "fall of the refusal metric by this part of the shift alone over that by all of it"
        gap = [a - b for a, b in zip(fall["error"], fall["latents"], strict=True)]
        found[f"{name}_by_error"] = share(fall["error"], fall["all"], formula)
        found[f"{name}_by_latents"] = share(fall["latents"], fall["all"], formula)
        found[f"{name}_by_error_minus_latents"] = share(gap, fall["all"], formula)
    found |= against("zero_kept_refused", "permuted", "zero, error kept", "zero: permuted", "tuned")
    found |= against("zero_dropped_refused", "reconstruction", "zero, error dropped", "reconstruction", "tuned")
    found["zero_recomputed_refused"] = refused("zero, error recomputed", "tuned")
    return found
