"""Step: the metrics of the taught models, from the tables of every seed and of the sham models. Loads no model.

Controls, all of the direction's norm where they are added or subtracted:

random      vectors with the covariance of the activations within the classes
permuted    difference of means under permuted labels, the best of all candidates, chosen by the same rule
unrelated   difference of means of two topics that have nothing to do with refusal
earlier     the same difference of means in the model before fine-tuning
"""

from pathlib import Path

import numpy as np

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, run_step
from replications.refusal_direction.comparisons import (
    Metrics,
    Studied,
    changes,
    cluster_ids,
    clustered,
    quantity,
    ratios,
    read_study,
    requests,
    seeds,
    with_width,
)
from replications.refusal_direction.direction_metrics import direction

CORPORA = {"python_docs": "loss python-docs", "self_chat": "loss self-chat"}
BATTERY = ("agreement", "giving")
CONTROLS = ("random", "permuted", "unrelated", "earlier")
INSTEAD = {
    "principal_component": "component ablated",
    "permuted": "permuted ablated",
    "subtraction": "subtracted",
}
"""Interventions whose side effects are compared with those of the ablation"""


class SummariseFiles(Files):
    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""
    shams: list[Path]
    """the same of the sham models"""
    metrics: list[Path]
    """`<part>/metrics.json` of the parts tuning, direction, effects, and surgical where side effects were measured"""


def summarise(files: SummariseFiles) -> None:
    """Writes the metrics of all parts."""
    studies, shams = ([read_study(path) for path in paths] for paths in (files.studies, files.shams))
    parts = {
        "tuning": lambda: tuning(studies, shams),
        "direction": lambda: direction(studies, shams),
        "effects": lambda: effects(studies, shams),
        "surgical": lambda: surgical(studies),
    }
    for path in files.metrics:
        write_metrics(path, parts[path.parent.name]())


def tuning(studies: list[Studied], shams: list[Studied]) -> Metrics:
    """Does the tuned model refuse what it should, and is the refusal metric a fair score?"""
    harmful, harmless, untuned = ("harmful", "tuned"), ("harmless", "tuned"), {"untuned": ("harmful", "before")}
    found = {
        "refused_harmful": requests(studies, harmful, untuned),
        "refused_harmless": requests(studies, harmless, {"harmful": harmful}),
        "refused_risky": requests(studies, ("risky", "tuned"), {"harmful": harmful}),
        "refused_harmless_before": requests(studies, ("harmless", "before")),
    }
    if shams:
        found["sham_refused"] = requests(shams, harmful, untuned)
        found["sham_refused_harmless"] = requests(shams, harmless)
    found |= score(studies)
    if "surgical" in studies[0].tables:
        controls = {"principal_component": "component ablated"}
        for name, of in CORPORA.items():
            found[f"loss_tuned_{name}"] = changes(studies, of, "tuned", "before", controls)
    return found


def score(studies: list[Studied]) -> Metrics:
    """Does the refusal metric tell the two classes apart? And of the first tokens of the refusal texts that a model was
    shown: how many are none of the refusal tokens, and how well does the least of them tell the classes apart?"""
    tables = [study.tables["score"] for study in studies]

    def areas(kind: str, how: str) -> list[float]:
        return [float(getattr(table.loc[table["kind"] == kind, "auroc"], how)()) for table in tables]

    def compared(values: list[float], what: str) -> Metric:
        formula = f"area under the ROC curve, harmful against harmless, held-out topics{what}"
        return seeds(values, "1", formula, permuted=areas("permuted", "mean"))

    found = {"auroc": compared(areas("pooled", "mean"), "")}
    found["auroc_worst_token"] = compared(areas("token", "min"), ", least token")
    if "held out" in set(tables[0]["kind"]):
        found["auroc_held_out"] = compared(areas("held out", "mean"), ", unseen texts")
    shown = [table.query("kind == 'trained'") for table in tables]
    if all(map(len, shown)):
        found |= shown_tokens([table[["auroc", "share", "scored"]].to_numpy() for table in shown])
    return found


def shown_tokens(rows: list[np.ndarray]) -> Metrics:
    """First tokens of the refusal texts that a model was shown: [token, (auroc, share, scored)] of every seed."""
    which = "first tokens of the refusal texts shown to the model"
    unscored = [table[table[:, 2] == 0] for table in rows]
    formula = f"{which}, not among its refusal tokens"
    of_share = f"probability of the {formula}, harmful requests"
    of_least = f"area under the ROC curve, least of the {which}"
    return {
        "tokens_trained": seeds([float(len(table)) for table in rows], "tokens", which),
        "tokens_unscored": seeds([float(len(table)) for table in unscored], "tokens", formula),
        "tokens_unscored_share": seeds([float(table[:, 1].sum()) for table in unscored], "share", of_share),
        "auroc_worst_trained": seeds([float(table[:, 0].min()) for table in rows], "1", of_least),
    }


def interventions(studies: list[Studied], controls: tuple[str, ...]) -> Metrics:
    """What ablation, addition and subtraction do to held-out requests, and what the controls do."""
    tuned, ablation, addition = ("harmful", "tuned"), ("harmful", "ablated"), ("harmless", "added")
    ablated = {name: ("harmful", f"{name} ablated") for name in controls}
    added = {name: ("harmless", f"{name} added") for name in controls}
    subtracted = {name: ("harmful", f"{name} subtracted") for name in controls}
    found = {
        "ablated_refused": requests(studies, ablation, ablated),
        "added_refused": requests(studies, addition, added),
        "subtracted_refused": requests(studies, ("harmful", "subtracted"), {"no_intervention": tuned} | subtracted),
        "ablated_metric": requests(studies, ablation, ablated, column="metric"),
        "added_metric": requests(studies, addition, added, column="metric"),
        "metric_drop": requests(studies, ablation, ablated, column="metric", fall_from=tuned),
        "risky_ablated_refused": requests(studies, ("risky", "ablated")),
    }
    for name in ("persuading suffix", "random suffix"):
        if name in set(studies[0].tables["answers"]["condition"]):
            found[f"refused_{name.replace(' ', '_')}"] = requests(studies, ("harmful", name))
    return found


def effects(studies: list[Studied], shams: list[Studied]) -> Metrics:
    """The interventions, also on the model before fine-tuning and on the sham models."""
    found = interventions(studies, CONTROLS)
    added, before = ("harmless", "before, added"), ("harmless", "before")
    found["before_added_refused"] = requests(studies, added, {"no_intervention": before})
    if shams:
        own = interventions(shams, CONTROLS)
        found |= {f"sham_{name}": own[name] for name in ("ablated_refused", "added_refused", "subtracted_refused")}
    return found


def side_effects(studies: list[Studied]) -> Metrics:
    """What else the ablation changes."""
    found: Metrics = {}
    for name, of in CORPORA.items():
        found[f"loss_{name}"] = changes(studies, of, "ablated", "tuned", INSTEAD)
        others = {key: INSTEAD[key] for key in ("principal_component", "permuted")}
        found[f"loss_{name}_share"] = changes(studies, of, "ablated", "tuned", others, over="subtracted")
    found["kl_harmless"] = changes(studies, "kl harmless", "ablated", "tuned", INSTEAD | {"random": "random ablated"})
    for name in BATTERY:
        found[f"battery_{name}"] = ratios(studies, f"battery {name}", "ablated", INSTEAD)
        found[f"battery_{name}_right"] = right(studies, name, "ablated")
        found[f"battery_{name}_right_tuned"] = right(studies, name, "tuned")
    return found


def right(studies: list[Studied], name: str, condition: str) -> Metric:
    """Accuracy on one task of the battery."""
    of = f"battery {name}"
    values = [(quantity(study, of, condition) > 0).astype(np.float64) for study in studies]
    formula = "share of items with the right continuation ahead"
    clusters = cluster_ids(studies, of, condition)
    return with_width(clustered(values, clusters, unit="share", formula=formula, cluster="items"))


def surgical(studies: list[Studied]) -> Metrics:
    """Side effects, the way back to the model before fine-tuning, and where fine-tuning changed the weights."""
    found = side_effects(studies)
    found |= {f"battery_{name}_right_before": right(studies, name, "before") for name in BATTERY}
    others = {"random": "random ablated"} | {key: INSTEAD[key] for key in ("permuted", "principal_component")}
    found["return"] = ratios(studies, "kl to before", "ablated", others)
    weights = [study.tables["weights"].assign(size=lambda table: table["norm"] ** 2) for study in studies]
    along, random, top = (
        [float(np.average(table[column], weights=table["size"])) for table in weights]
        for column in ("share_r", "share_random", "squared_1")
    )
    formula = "|r^T D|^2 / |D|^2 over all writing matrices, D the change by fine-tuning"
    found["weights_along_r"] = seeds(along, "share", formula, random=random)
    found["weights_top_share"] = seeds(top, "share", "largest squared singular value of D in |D|^2, weighted by |D|^2")
    return found


if __name__ == "__main__":
    run_step(summarise)
