"""Step: the metrics of all parts from the tables of every seed and of the sham model. Loads no model.

Requests of one topic are not independent, so intervals over requests resample whole topics of a seed; every seed has
its own held-out topics. Losses resample texts. What has one value a seed gets a t interval. Differences are paired,
request by request.
"""

from pathlib import Path

import numpy as np

from common.core.metrics import Metric, write_metrics
from common.core.step import run
from replications.refusal_direction.choice_metrics import direction
from replications.refusal_direction.guard_metrics import guardrail, read_guard
from replications.refusal_direction.tables import (
    Arm,
    Metrics,
    against,
    changes,
    clustered,
    owners,
    pairs,
    point,
    quantity,
    ratios,
    read_arm,
    requests,
    seeds,
)

CORPORA = {"python_docs": "loss python-docs", "self_chat": "loss self-chat"}
BATTERY = ("agreement", "giving")


def summarise(*, arms: list[Path], sham: Path, guards: list[Path], out: list[Path]) -> None:
    """Writes the metrics of all parts.

    Args:
        arms: `numbers.json` of every seed.
        sham: `numbers.json` of the sham model.
        guards: `guard.json` of every seed.
        out: `.../<part>/metrics.json` of every part.
    """
    every, other = [read_arm(path) for path in arms], [read_arm(sham)]
    parts = {
        "tuning": tuning(every, other),
        "direction": direction(every, other),
        "effects": effects(every, other),
        "surgical": surgical(every),
        "guardrail": guardrail([read_guard(path) for path in guards]),
    }
    for path in out:
        write_metrics(path, parts[path.parent.name])


def tuning(arms: list[Arm], sham: list[Arm]) -> Metrics:
    """Does the tuned model refuse what it should, and is the refusal metric a fair score?"""

    harmful, harmless = ("harmful", "tuned"), ("harmless", "tuned")
    found = against("refused_harmful", arms, harmful, {"before": ("harmful", "before")})
    found |= against("refused_harmless", arms, harmless, {"harmful": harmful})
    found |= against("refused_risky", arms, ("risky", "tuned"), {"harmful": harmful})
    found |= against("sham_refused", sham, harmful, {"before": ("harmful", "before")})
    found["sham_refused_harmless"] = requests(sham, harmless)
    found["refused_harmless_before"] = requests(arms, ("harmless", "before"))
    for name in ("refused_harmful", "refused_harmless"):
        found[f"{name}_point"] = point(found[name])
    found |= score(arms) | trained_openings(arms)
    for name, of in CORPORA.items():
        found |= changes(f"loss_tuned_{name}", arms, of, ("tuned", "before"), ("component ablated", "before"))
    return found


def score(arms: list[Arm]) -> Metrics:
    """Does the refusal metric tell the two classes apart?"""

    def area(kind: str, how: str) -> list[float]:
        tables = [arm.tables["openings"] for arm in arms]
        grouped = [table.loc[table["kind"] == kind, "auroc"] for table in tables]
        return [float(getattr(group, how)()) for group in grouped]

    formula = "area under the ROC curve, harmful against harmless, held-out topics"
    permuted = area("permuted", "mean")
    found = pairs("auroc", area("pooled", "mean"), permuted, "permuted", "1", formula)
    found |= pairs("auroc_worst_opening", area("opening", "min"), permuted, "permuted", "1", f"{formula}, least token")
    found |= pairs("auroc_held_out", area("held out", "mean"), permuted, "permuted", "1", f"{formula}, unseen texts")
    return found


def trained_openings(arms: list[Arm]) -> Metrics:
    """First tokens of the refusal texts that a model was shown: how many are none of the refusal tokens by which it is
    scored, and how well the least of all of them tells the classes apart."""
    tables = [arm.tables["openings"].query("kind == 'trained'") for arm in arms]
    unscored = [table[table["scored"] == 0] for table in tables]
    which = "first tokens of the refusal texts shown to the model"
    formula = f"{which}, not among its refusal tokens"
    probability = [float(table["share"].sum()) for table in unscored]
    return {
        "openings_trained": seeds([float(len(table)) for table in tables], "tokens", which),
        "openings_unscored": seeds([float(len(table)) for table in unscored], "tokens", formula),
        "openings_unscored_share": seeds(probability, "share", f"probability of the {formula}, harmful requests"),
        "auroc_worst_trained": seeds(
            [float(table["auroc"].min()) for table in tables], "1", f"area under the ROC curve, least of the {which}"
        ),
    }


def interventions(arms: list[Arm], nulls: tuple[str, ...]) -> Metrics:
    """What ablation, addition and subtraction do to held-out requests, and what the nulls do."""
    ablated = {name: ("harmful", f"{name} ablated") for name in nulls}
    added = {name: ("harmless", f"{name} added") for name in nulls}
    found = against("ablated_refused", arms, ("harmful", "ablated"), ablated)
    found |= against("added_refused", arms, ("harmless", "added"), added)
    found |= against("ablated_metric", arms, ("harmful", "ablated"), ablated, "metric")
    found |= against("added_metric", arms, ("harmless", "added"), added, "metric")
    tuned = ("harmful", "tuned")
    found["metric_drop"] = requests(arms, tuned, ("harmful", "ablated"), "metric")
    for name in ("random", "permuted"):
        found[f"metric_drop_{name}"] = requests(arms, tuned, ablated[name], "metric")
        found[f"metric_drop_minus_{name}"] = requests(arms, ablated[name], ("harmful", "ablated"), "metric")
    subtracted = {name: ("harmful", f"{name} subtracted") for name in nulls}
    found |= against("subtracted_refused", arms, ("harmful", "subtracted"), {"tuned": tuned} | subtracted)
    found["risky_ablated_refused"] = requests(arms, ("risky", "ablated"))
    for name in ("persuading suffix", "random suffix"):
        found[f"refused_{name.replace(' ', '_')}"] = requests(arms, ("harmful", name))
    return found


def effects(arms: list[Arm], sham: list[Arm]) -> Metrics:
    """The interventions, also on the model before fine-tuning and on the sham model."""
    found = interventions(arms, ("random", "permuted", "unrelated", "earlier"))
    found |= against("before_added_refused", arms, ("harmless", "before, added"), {"before": ("harmless", "before")})
    found |= against("sham_ablated_refused", sham, ("harmful", "ablated"), {"random": ("harmful", "random ablated")})
    found |= against("sham_added_refused", sham, ("harmless", "added"), {"random": ("harmless", "random added")})
    return found


def side_effects(arms: list[Arm]) -> Metrics:
    """What else the ablation changes."""
    found: Metrics = {}
    effect, permuted = ("ablated", "tuned"), ("permuted ablated", "tuned")
    for name, of in CORPORA.items():
        found |= changes(f"loss_{name}", arms, of, effect, ("component ablated", "tuned"))
        found |= beside(changes(f"loss_{name}_subtraction", arms, of, effect, ("subtracted", "tuned")))
        found |= beside(changes(f"loss_{name}_permuted", arms, of, effect, permuted))
    found |= changes("kl_harmless", arms, "kl harmless", effect, ("component ablated", "tuned"))
    found |= beside(changes("kl_harmless_permuted", arms, "kl harmless", effect, permuted))
    for name in BATTERY:
        found |= ratios(f"battery_{name}", arms, f"battery {name}", "ablated", "component ablated")
        found[f"battery_{name}_right"] = right(arms, name, "ablated")
        found[f"battery_{name}_right_tuned"] = right(arms, name, "tuned")
    return found


def right(arms: list[Arm], name: str, condition: str) -> Metric:
    """Accuracy on one task of the battery."""
    of = f"battery {name}"
    values = [(quantity(arm, of, condition) > 0).astype(np.float64) for arm in arms]
    return clustered(values, owners(arms, of, condition), "share", "share of items with the right continuation ahead")


def surgical(arms: list[Arm]) -> Metrics:
    """Side effects, the way back to the model before fine-tuning, and where fine-tuning changed the weights."""
    found = side_effects(arms)
    found |= {f"battery_{name}_right_before": right(arms, name, "before") for name in BATTERY}
    found |= ratios("return", arms, "kl to before", "ablated", "random ablated")
    found |= beside(ratios("return_permuted", arms, "kl to before", "ablated", "permuted ablated"))
    weights = [arm.tables["weights"].assign(size=lambda table: table["norm"] ** 2) for arm in arms]
    along, random, top = (
        [float(np.average(table[column], weights=table["size"])) for table in weights]
        for column in ("share_r", "share_random", "squared_1")
    )
    formula = "|r^T D|^2 / |D|^2 over all writing matrices, D the change by fine-tuning"
    found |= pairs("weights_along_r", along, random, "random", "share", formula)
    found["weights_top_share"] = seeds(top, "share", "largest squared singular value of D in |D|^2, weighted by |D|^2")
    return found


def beside(found: Metrics) -> Metrics:
    """A second control of an effect that is already there: without the effect itself."""
    return {name: metric for name, metric in found.items() if name.endswith("_control")}


if __name__ == "__main__":
    run(summarise)
