"""Metrics from the tables of every seed: who is resampled, and how effect, control and difference are paired."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors.numpy import load_file

from common.core.files import read_json
from common.core.metrics import Metric
from common.core.statistics import over_clusters, over_seeds

REFUSED = "share of requests whose first greedy tokens are a refusal"
METRIC = "mean ln P_R - ln(1 - P_R) of the first token"
Metrics = dict[str, Metric]


class Arm(NamedTuple):
    """What `study` or `released` left of one model; of the sham model and of released ones that is less."""

    tables: dict[str, pd.DataFrame]
    numbers: dict[str, float]
    vectors: dict[str, np.ndarray]
    topics: str | None = None
    """Arms of one name share their topics, which are resampled together; without a name topics are the arm's own."""


def read_arm(numbers: Path, topics: str | None = None) -> Arm:
    """The folder of one `numbers.json`."""
    tables = {path.stem: pd.read_csv(path) for path in sorted(numbers.parent.glob("*.csv"))}
    return Arm(tables, read_json(numbers), load_file(numbers.with_name("directions.safetensors")), topics)


def answers(arm: Arm, kind: str, condition: str) -> pd.DataFrame:
    """The requests of one class under one condition, in their order."""
    table = arm.tables["answers"]
    return table[(table["class"] == kind) & (table["condition"] == condition)].reset_index(drop=True)


def lone(value: float, unit: str, formula: str) -> Metric:
    """A single value, as with one seed or text at scale smoke, where no claim is tested: an interval without width."""
    return Metric(value=value, ci_low=value, ci_high=value, n=1, unit=unit, formula=formula)


def clustered(values: list[Float[np.ndarray, " n"]], clusters: list[list[str]], unit: str, formula: str) -> Metric:
    """Mean over all seeds' items with a bootstrap over clusters, and the mean of every seed. Where everything is one
    cluster, as a corpus with one text at scale smoke, every item is its own."""
    if sum(map(len, values)) == 1:
        return lone(float(values[0][0]), unit, formula)
    if len(set(np.concatenate(clusters))) < 2:
        clusters = [[f"{number} {item}" for item in range(len(value))] for number, value in enumerate(values)]
    metric = over_clusters(np.concatenate(values), np.concatenate(clusters), unit=unit, formula=formula)
    seeds = [float(value.mean()) for value in values] if len(values) > 1 else None
    return metric.model_copy(update={"per_seed": seeds})


def requests(
    arms: list[Arm],
    what: tuple[str, str],
    minus: tuple[str, str] | None = None,
    column: str = "refused",
) -> Metric:
    """Mean of a column over the requests of (class, condition), or of its paired difference to another condition. Where
    the classes differ, requests are paired by order, which only pairs the seeds."""
    unit, formula = ("share", REFUSED) if column == "refused" else ("nats", METRIC)
    values, clusters = [], []
    for number, arm in enumerate(arms):
        table = answers(arm, *what)
        found = table[column].to_numpy(dtype=np.float64)
        if minus is not None:
            other = answers(arm, *minus)[column].to_numpy(dtype=np.float64)
            count = min(len(found), len(other))
            found = found[:count] - other[:count]
        values.append(found)
        whose = number if arm.topics is None else arm.topics
        clusters.append([f"{whose} {topic}" for topic in table["topic"][: len(found)]])
    return clustered(values, clusters, unit, formula)


def against(
    name: str,
    arms: list[Arm],
    effect: tuple[str, str],
    controls: dict[str, tuple[str, str]],
    column: str = "refused",
) -> Metrics:
    """`name`, and for every control `name_<control>` and `name_minus_<control>`."""
    found = {name: requests(arms, effect, column=column)}
    for control, other in controls.items():
        found[f"{name}_{control}"] = requests(arms, other, column=column)
        found[f"{name}_minus_{control}"] = requests(arms, effect, other, column)
    return found


def seeds(values: list[float], unit: str, formula: str) -> Metric:
    """One value a seed."""
    if len(values) == 1:
        return lone(values[0], unit, formula)
    return over_seeds(values, unit=unit, formula=formula)


def pairs(name: str, effect: list[float], control: list[float], control_name: str, unit: str, formula: str) -> Metrics:
    """An effect and its control with one value a seed each, and their difference."""
    return {
        name: seeds(effect, unit, formula),
        f"{name}_{control_name}": seeds(control, unit, formula),
        f"{name}_minus_{control_name}": seeds([a - b for a, b in zip(effect, control, strict=True)], unit, formula),
    }


def point(metric: Metric) -> Metric:
    """The same value without an interval, for a target that is one of the value, beside a bound on its interval."""
    shown = {"ci_low": metric.value, "ci_high": metric.value, "formula": f"{metric.formula}; the value, no interval"}
    return metric.model_copy(update=shown)


def quantity(arm: Arm, name: str, condition: str) -> Float[np.ndarray, " item"]:
    """The items of one quantity under one condition."""
    table = arm.tables["surgical"]
    found: np.ndarray = table[(table["quantity"] == name) & (table["condition"] == condition)]["value"].to_numpy()
    return found


def owners(arms: list[Arm], name: str, condition: str) -> list[list[str]]:
    """Whom each item of a quantity is resampled with, seed by seed. Requests: those of its topic in its seed, or in all
    arms that share their topics. Texts and items of the battery, which have no topic: the same item of other seeds."""
    found = []
    for number, arm in enumerate(arms):
        table = arm.tables["surgical"]
        topics = table[(table["quantity"] == name) & (table["condition"] == condition)]["topic"]
        whose = number if arm.topics is None else arm.topics
        named = enumerate(zip(topics, topics.isna(), strict=True))
        found.append([f"item {item}" if none else f"{whose} {topic}" for item, (topic, none) in named])
    return found


def changes(name: str, arms: list[Arm], of: str, effect: tuple[str, str], control: tuple[str, str]) -> Metrics:
    """Change of a quantity from the second condition to the first, for effect and control, and their difference."""

    def change(pair: tuple[str, str]) -> list[np.ndarray]:
        return [quantity(arm, of, pair[0]) - quantity(arm, of, pair[1]) for arm in arms]

    formula, clusters = f"{of}: mean change per token", owners(arms, of, effect[0])
    both = change(effect), change(control)
    return {
        name: clustered(both[0], clusters, "nats", formula),
        f"{name}_control": clustered(both[1], clusters, "nats", formula),
        f"{name}_minus_control": clustered([a - b for a, b in zip(*both, strict=True)], clusters, "nats", formula),
    }


def ratio(
    above: list[Float[np.ndarray, " item"]],
    below: list[Float[np.ndarray, " item"]],
    clusters: list[list[str]],
    formula: str,
) -> Metric:
    """Mean over mean of all seeds' items with a bootstrap over clusters, and that of every seed. Where everything is
    one cluster, every item is its own."""
    whole, names = np.concatenate(below), np.concatenate(clusters)
    names = names if len(set(names)) > 1 else np.arange(len(names)).astype(str)
    metric = over_clusters(np.concatenate(above), names, unit="1", formula=formula, denominators=whole)
    each = [float(a.mean() / b.mean()) for a, b in zip(above, below, strict=True)]
    return metric.model_copy(update={"per_seed": each if len(each) > 1 else None})


def ratios(name: str, arms: list[Arm], of: str, effect: str, control: str) -> Metrics:
    """Mean of a quantity under a condition over its mean in the tuned model, for effect and control."""
    below, clusters = [quantity(arm, of, "tuned") for arm in arms], owners(arms, of, "tuned")
    both = [[quantity(arm, of, condition) for arm in arms] for condition in (effect, control)]
    formula = f"mean {of} / mean {of} of the tuned model"
    return {
        name: ratio(both[0], below, clusters, formula),
        f"{name}_control": ratio(both[1], below, clusters, formula),
        f"{name}_minus_control": ratio([a - b for a, b in zip(*both, strict=True)], below, clusters, formula),
    }
