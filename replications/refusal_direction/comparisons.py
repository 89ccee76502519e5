"""Comparisons from the tables of every seed: what is resampled, and how effect and controls are paired.

Requests of one topic are not independent, nor are topics of one model, whose direction and controls are its own. So
intervals over requests resample models, and of each its held-out topics, whole. A share without spread gets the Wilson
interval of as many draws as there are topics. Texts resample likewise. What has one value a seed gets a t
interval.

Resampling five models, or three, finds less spread than there is. So where topics are each model's own no such interval
is narrower than that of t over the models (`over_clusters`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors.numpy import load_file

from common.core.files import read_json
from common.core.metrics import Control, Estimate, Metric
from common.core.shares import with_width
from common.core.statistics import over_clusters, over_seeds, with_control

COLUMNS = {  # unit, formula
    "refused": ("share", "share of requests whose first greedy tokens are a refusal"),
    "metric": ("nats", "mean ln P_R - ln(1 - P_R) of the first token"),
    "kl_tuned": ("nats", "mean KL(tuned || this) of the first token"),
    "kl_before": ("nats", "mean KL(this || before) of the first token"),
    "surprise": ("nats", "mean negative log likelihood of the answer's tokens under the model before fine-tuning"),
    "projection": ("1", "mean projection on r, 0 for harmless and 1 for harmful requests"),
    "cosine": ("1", "mean cosine with r"),
    "moved": ("1", "mean movement along r, in distances of the class means"),
    "aside": ("share", "share of requests that are answered while the residual stream moves along r by less than half"),
    "attention": ("share", "mean attention to the instruction of the heads that write most along r"),
    "attention_others": ("share", "mean attention to the instruction of the other heads below r's block"),
    "attention_suffix": ("share", "mean attention to the suffix of the heads that write most along r"),
}
SEARCHED = "of all directions under permuted labels, at several layers and at that of r, the best for this use"
FORMULAS = dict.fromkeys(("permuted", "foreign_permuted", "permuted_push", "damage", "cheapest"), SEARCHED)
"""Of controls that are chosen, how; sealed with their claims"""
Metrics = dict[str, Metric]
Items = Float[np.ndarray, " item"]
Condition = tuple[str, str]
"""class of the requests, and what is done to the model"""


class Studied(NamedTuple):
    """What `study` or `released` left of one model; of sham and released models that is less."""

    tables: dict[str, pd.DataFrame]
    numbers: dict[str, float]
    vectors: dict[str, np.ndarray]
    topics: str | None = None
    """Models of one name share their topics, which are resampled together; without a name topics are the model's own"""


def read_study(numbers: Path, topics: str | None = None) -> Studied:
    """The folder of one `numbers.json`."""
    tables = {path.stem: pd.read_csv(path) for path in sorted(numbers.parent.glob("*.csv"))}
    return Studied(tables, read_json(numbers), load_file(numbers.with_name("directions.safetensors")), topics)


def answers(study: Studied, condition: Condition) -> pd.DataFrame:
    """The requests of one class under one condition, in their order."""
    table = study.tables["answers"]
    kind, name = condition
    return table[(table["class"] == kind) & (table["condition"] == name)].reset_index(drop=True)


def clustered(
    values: list[Items],
    clusters: list[list[str]],
    *,
    unit: str,
    formula: str,
    cluster: str = "topics",
    models: list[str] | None = None,
    below: list[Items] | None = None,
    controls: Mapping[str, list[Items]] | None = None,
) -> Metric:
    """Mean over the items of all seeds, over the mean of `below` if given, with a bootstrap over models, and over the
    clusters of each. Models that share their clusters are resampled together.

    A single item, or items that are all in one cluster, occur at scale smoke alone. The single one has no interval;
    otherwise every item is its own cluster.

    Args:
        values: one array a seed.
        clusters: whom each item is resampled with.
        unit: of the value.
        formula: what the value is.
        cluster: what a cluster is.
        models: whose items each array holds; by default every array is of another model.
        below: denominators, shared by effect and controls.
        controls: the same items under each control.
    """
    names = np.concatenate(clusters)
    if len(names) == 1:
        return _single(float(values[0][0]), unit, formula, {k: float(v[0][0]) for k, v in (controls or {}).items()})
    if len(set(names)) < 2:
        names = np.arange(len(names)).astype(str)
    sizes = [len(value) for value in values]
    groups = np.repeat(np.arange(len(values)), sizes) if len(values) > 1 else None
    owners = None if groups is None else np.repeat(models or [str(number) for number in range(len(values))], sizes)
    whole = None if below is None else np.concatenate(below)
    joined = {key: np.concatenate(others) for key, others in (controls or {}).items()}
    return over_clusters(
        np.concatenate(values), names, unit=unit, formula=formula, cluster=cluster, denominators=whole, groups=groups,
        models=owners, controls=joined if whole is None else {key: (others, whole) for key, others in joined.items()},
    )  # fmt: skip


def requests(
    studies: list[Studied],
    effect: Condition,
    controls: Mapping[str, Condition] | None = None,
    *,
    column: str = "refused",
    over: Condition | None = None,
) -> Metric:
    """Mean of a column over the requests of one condition, beside controls on the same requests.

    Args:
        studies: one a seed.
        effect: class and condition.
        controls: for each its class and condition. A control of another class is resampled by its own topics, and
            paired in the order of requests.
        column: of `COLUMNS`.
        over: a condition over whose mean the means are taken.
    """
    listed = dict(controls or {})
    unit, formula = COLUMNS[column]
    if over is not None:
        unit, formula = "1", f"{formula}, over that with the condition {over[1]}"
    asked = [effect, *listed.values(), *([over] if over else [])]
    counts = [min(len(answers(study, condition)) for condition in asked) for study in studies]

    def items(condition: Condition) -> list[Items]:
        pairs = zip(studies, counts, strict=True)
        return [answers(study, condition)[column].to_numpy(dtype=np.float64)[:count] for study, count in pairs]

    named = [str(number) if study.topics is None else study.topics for number, study in enumerate(studies)]

    def topics(condition: Condition) -> list[list[str]]:
        rows = [answers(study, condition)["topic"][:count] for study, count in zip(studies, counts, strict=True)]
        return [[f"{whose} {topic}" for topic in own] for whose, own in zip(named, rows, strict=True)]

    below = None if over is None else items(over)

    def metric_of(values: list[Items], at: Condition, **others: list[Items]) -> Metric:
        return clustered(values, topics(at), unit=unit, formula=formula, models=named, below=below, controls=others)

    paired = {name: items(other) for name, other in listed.items() if other[0] == effect[0]}
    metric = metric_of(items(effect), effect, **paired)
    for name, other in listed.items():
        if name not in paired:
            gap = [a - b for a, b in zip(items(effect), items(other), strict=True)]
            metric = with_control(metric, name, metric_of(items(other), other), metric_of(gap, effect))
    return with_width(_within(_told(metric))) if unit == "share" else _told(metric)


def _told(metric: Metric) -> Metric:
    """With what its controls were chosen by."""
    controls = [one.model_copy(update={"formula": FORMULAS.get(one.name, "")}) for one in metric.controls]
    return metric.model_copy(update={"controls": controls})


def _within(share: Metric) -> Metric:
    """The interval of a share and of its controls between 0 and 1; differences go on."""

    def clipped(one: Estimate) -> dict[str, float]:
        return {"ci_low": max(one.ci_low, 0.0), "ci_high": min(one.ci_high, 1.0)}

    controls = [one.model_copy(update=clipped(one)) for one in share.controls]
    return share.model_copy(update={"controls": controls, **clipped(share)})


def seeds(values: list[float], unit: str, formula: str, **controls: list[float]) -> Metric:
    """One value a seed, beside controls paired by seed. With one seed there is no interval."""
    if len(values) == 1:
        return _single(values[0], unit, formula, {name: others[0] for name, others in controls.items()})
    return over_seeds(values, unit=unit, formula=formula, controls=controls)


def _single(value: float, unit: str, formula: str, controls: Mapping[str, float]) -> Metric:
    """A single value, as with one seed or text at scale smoke, where no claim is judged: intervals have no width."""

    def exact(number: float) -> Estimate:
        return Estimate(value=number, ci_low=number, ci_high=number)

    compared = [
        Control(name=name, n=1, difference=exact(value - other), **exact(other).model_dump())
        for name, other in controls.items()
    ]
    return Metric(n=1, unit=unit, formula=formula, controls=compared, **exact(value).model_dump())


def rises(studies: list[Studied], corpus: str, effect: str, controls: Mapping[str, str], over: str | None) -> Metric:
    """Rise of the loss over that of the tuned model, for the effect and for controls. With `over`, as a share of the
    rise under that condition. Resampled by text; seeds read different ones."""

    def rise(condition: str) -> list[Items]:
        every = [study.tables["losses"] for study in studies]
        tables = [table[table["corpus"] == corpus] for table in every]
        found = [
            [table[table["condition"] == one]["value"].to_numpy() for one in (condition, "tuned")] for table in tables
        ]
        return [end - start for end, start in found]

    values = rise(effect)
    found = clustered(
        values, [[f"text {item} of {seed}" for item in range(len(one))] for seed, one in enumerate(values)],
        unit="nats" if over is None else "1", cluster="texts", below=None if over is None else rise(over),
        formula="mean rise of the loss per token" + (f", over that with the condition {over}" if over else ""),
        controls={name: rise(condition) for name, condition in controls.items()},
    )  # fmt: skip
    return _told(found)
