"""Step: what attribution graphs of the two-hop models say, beside what ablations and swaps do to the models.

Prompts are held out from the training of the model and answered rightly. Every control goes through the same reading:
other dictionaries (`untrained`, `neurons`, `other`), and the same graph with permuted edges. Also the size of what a
feature writes (activation times decoder norm) in place of its influence.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.settings import Strict
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.saes.sae import Sae
from common.toys.settings import Architecture
from common.toys.transformer import Weights
from replications.circuit_tracing.dictionaries import load_dictionaries
from replications.circuit_tracing.graph import Graph, attribute
from replications.circuit_tracing.influence import Layout, node_influence, nodes_needed, scores
from replications.circuit_tracing.interventions import (
    Subject,
    agreement,
    changes,
    fall,
    first_order,
    matched,
    predictions,
    shuffled,
    spearman,
)
from replications.circuit_tracing.middle import most_influential, named, strongest, swap, values
from replications.circuit_tracing.settings import Measures, Toy
from replications.circuit_tracing.task import LAST, RELATION, Tables, tables
from replications.circuit_tracing.toy import Reading, architecture, freeze, neurons, one, read
from replications.circuit_tracing.train import load_models

KINDS = ("trained", "untrained", "neurons", "other")
NAMED = 10  # most influential features of a prompt whose names are judged
DRAWN = 4  # prompts of each seed in the scatter


class Both(Strict):
    """The models, and what is measured."""

    toy: Toy
    measures: Measures


class MeasureFiles(Files):
    models: Path
    dictionaries: Path
    metrics: Path
    prompts: Path
    """one row per seed, prompt and dictionary"""
    effects: Path
    """influence on the logits and measured effect of single features"""


class Studied(NamedTuple):
    """One model with all its prompts."""

    weights: Weights
    shape: Architecture
    tables: Tables
    reading: Reading
    right: Tensor

    def subject(self, at: int) -> Subject:
        """Prompt `at`."""
        answer = int(self.tables.correct[at])
        return Subject(self.weights, self.shape, self.tables.prompts[at], self.reading, at, answer)

    def graph(self, at: int, saes: list[Sae]) -> Graph:
        """Its graph, of the answer's logit alone."""
        frozen = freeze(self.weights, self.reading, self.tables.prompts, self.shape, at)
        return attribute(frozen, saes, tokens=[int(self.tables.correct[at])])


def study(weights: Weights, shape: Architecture, table: Tables) -> Studied:
    """Reads all prompts of one model."""
    reading = read(weights, table.prompts, shape)
    return Studied(weights, shape, table, reading, reading.logits[:, -1].argmax(-1) == table.correct)


def chosen_prompts(studied: Studied, count: int, seed: int) -> list[int]:
    """Held-out prompts that are answered. UserError if there are none: the model has not learned the second hop."""
    pool = (studied.right & studied.tables.held_out).nonzero()[:, 0]
    if not len(pool):
        raise UserError(f"the model of seed {seed} answers no held-out prompt; train it for more steps")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return [int(at) for at in pool[order][:count]]


def donor(studied: Studied, at: int) -> int | None:
    """Another rightly answered prompt with the same relation, another class and another answer."""
    table = studied.tables
    same = table.prompts[:, RELATION] == table.prompts[at, RELATION]
    other = (table.middle != table.middle[at]) & (table.correct != table.correct[at])
    pool = (studied.right & same & other).nonzero()[:, 0]
    if not len(pool):
        return None
    return int(pool[torch.randint(len(pool), (1,), generator=torch.Generator().manual_seed(at))])


def measure(files: MeasureFiles, settings: Both, run: RunInfo) -> None:
    """Measures all seeds."""
    weights, accuracy, seeds = load_models(files.models)
    shape = architecture(settings.toy.model, settings.toy.task)
    rows: list[dict[str, float | str]] = []
    effects: list[dict[str, float | str]] = []
    for place, seed in enumerate(track(seeds, "models")):
        studied = study(one(weights, place), shape, tables(settings.toy.task, seed))
        saes = {**load_dictionaries(files.dictionaries, place), "neurons": neurons(studied.weights, shape)}
        for number, at in enumerate(chosen_prompts(studied, settings.measures.prompts, seed)):
            for kind in KINDS:
                row, single = of_prompt(studied, at, saes[kind], kind, settings)
                rows.append({"seed": seed, "prompt": at, "kind": kind, **row})
                if number < DRAWN:
                    effects += [{"seed": seed, "prompt": at, "kind": kind, **each} for each in single]
    write_table(files.prompts, rows)
    write_table(files.effects, effects)
    metrics = all_metrics(rows, seeds)
    metrics["accuracy"] = over_seeds(
        accuracy[1].tolist(), unit="share", formula="held-out prompts that the model answers rightly"
    )
    write_metrics(files.metrics, metrics)


def of_prompt(
    studied: Studied, at: int, saes: list[Sae], kind: str, settings: Both
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """All numbers of one prompt with one dictionary, and its features one by one."""
    subject, graph = studied.subject(at), studied.graph(at, saes)
    weights, features = graph.logit_weights(), graph.features
    layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
    own = node_influence(graph.adjacency, weights)[: graph.n_features]
    found = scores(graph.adjacency, weights, layout)
    row: dict[str, float] = {
        "features": graph.n_features,
        "completeness": found.completeness,
        "replacement": found.replacement,
        "needed": nodes_needed(graph.adjacency, weights, layout, own, settings.measures.completeness),
    }
    if kind == "other":
        return row, []
    mixed = replace(graph, adjacency=shuffled(graph, at))
    wrote = features.write_norm()
    predicted = predictions(graph)
    instead = {}
    if kind == "trained":
        instead = {"shuffled": predictions(mixed), "norm": np.broadcast_to(wrote.numpy(), predicted.shape)}
    for name, frozen in (("frozen", True), ("free", False)):
        measured = changes(subject, graph, saes, frozen=frozen)
        row[f"agreement_{name}"] = agreement(features, predicted, measured)
        row[f"logit_{name}"] = spearman(predicted[-1:], measured[-1:])[0]
        for other, instead_of in instead.items():
            row[f"agreement_{name}_{other}"] = agreement(features, instead_of, measured)
    single = [
        {"influence": float(a), "effect": float(b), "layer": int(layer), "pos": int(pos)}
        for a, b, layer, pos in zip(predicted[-1], measured[-1], features.layer, features.pos, strict=True)
    ]
    count, mixed_own = settings.measures.top, node_influence(mixed.adjacency, weights)[: graph.n_features]
    top = strongest(graph, own, count)
    row["fall"] = fall(subject, graph, top)
    row["fall_matched"] = fall(subject, graph, matched(graph, top))
    row["fall_largest"] = fall(subject, graph, strongest(graph, wrote, count))
    row["fall_gradient"] = fall(subject, graph, strongest(graph, first_order(subject, graph), count))
    row["fall_shuffled"] = fall(subject, graph, strongest(graph, mixed_own, count))
    row |= swaps(studied, at, graph, saes, count)
    row["f1"] = names_f1(studied, graph, saes, settings)
    return row, single


def swaps(studied: Studied, at: int, graph: Graph, saes: list[Sae], count: int) -> dict[str, float]:
    """Whether the other class's answer is given after a swap at the last name. Swapped are the most influential
    features, those that write most, those that matter most to first order, or features matched to the first. Empty if
    there is no other prompt."""
    other_at = donor(studied, at)
    if other_at is None:
        return {}
    subject, other = studied.subject(at), studied.graph(other_at, saes)
    wanted = int(studied.tables.correct[other_at])
    both = ((subject, graph), (studied.subject(other_at), other))
    chosen = {
        "swap": [most_influential(each, count, at=LAST) for _, each in both],
        "swap_largest": [strongest(each, each.features.write_norm(), count, at=LAST) for _, each in both],
        "swap_gradient": [strongest(each, first_order(its, each), count, at=LAST) for its, each in both],
    }
    chosen["swap_matched"] = [matched(each, top) for (_, each), top in zip(both, chosen["swap"], strict=True)]
    return {name: float(swap(subject, graph, other, *pair) == wanted) for name, pair in chosen.items()}


def names_f1(studied: Studied, graph: Graph, saes: list[Sae], settings: Both) -> float:
    """Mean F1 of the names of the most influential features."""
    features, among = graph.features, values(studied.tables, settings.toy.task)
    found = []
    for node in most_influential(graph, NAMED).tolist():
        layer, pos, latent = int(features.layer[node]), int(features.pos[node]), int(features.latent[node])
        firing = saes[layer].encode(studied.reading.mlp_in[layer, :, pos])[:, latent] > 0
        found.append(named(firing, among[pos], settings.toy.task).f1)
    return sum(found) / len(found)


def all_metrics(rows: list[dict[str, float | str]], seeds: list[int]) -> dict[str, Metric]:
    """Means over prompts, seed by seed."""

    def mean(column: str, kind: str) -> list[float]:
        per_seed = []
        for seed in seeds:
            own = [row[column] for row in rows if row["seed"] == seed and row["kind"] == kind and column in row]
            per_seed.append(float(np.mean([float(value) for value in own])) if own else 0.0)
        return per_seed

    def ratio(kind: str) -> list[float]:
        pairs = zip(mean("needed", kind), mean("needed", "trained"), strict=True)
        return [above / max(below, 1.0) for above, below in pairs]

    rho = "Spearman of influence and |change| under ablation, attention {}, mean over targets and prompts"
    logits = "fall of the answer's logit, less the mean logit, when {} features are ablated"
    swapped = "share of swaps at the last name after which the other class's answer is given"
    f1 = f"F1 of the best name of each of the {NAMED} most influential features of a prompt"
    sized = "features needed for equal completeness: {} / trained transcoders"
    make: Callable[..., Metric] = over_seeds
    found = {
        f"agreement_{how}": make(
            mean(f"agreement_{how}", "trained"), unit="rho", formula=rho.format(how),
            controls={
                "untrained": mean(f"agreement_{how}", "untrained"),
                "neurons": mean(f"agreement_{how}", "neurons"),
                "shuffled_edges": mean(f"agreement_{how}_shuffled", "trained"),
                "write_norm": mean(f"agreement_{how}_norm", "trained"),
            },
        )
        for how in ("frozen", "free")
    }  # fmt: skip
    others = ("untrained", "neurons")
    for kind, ending in (("trained", ""), *((kind, f"_{kind}") for kind in others)):
        found[f"fall{ending}"] = make(
            mean("fall", kind), unit="logits", formula=logits.format("the most influential"),
            controls={
                "matched_writes": mean("fall_matched", kind),
                "largest_writes": mean("fall_largest", kind),
                "gradient": mean("fall_gradient", kind),
                "shuffled_edges": mean("fall_shuffled", kind),
                **{other: mean("fall", other) for other in others if kind == "trained"},
            },
        )  # fmt: skip
    found["swapped"] = make(
        mean("swap", "trained"), unit="share", formula=swapped,
        controls={
            "untrained": mean("swap", "untrained"), "neurons": mean("swap", "neurons"),
            "largest_writes": mean("swap_largest", "trained"), "matched_writes": mean("swap_matched", "trained"),
            "gradient": mean("swap_gradient", "trained"),
        },
    )  # fmt: skip
    found["size_ratio"] = make(
        ratio("neurons"), unit="1", formula=sized.format("neurons"),
        controls={"other_transcoder": ratio("other"), "untrained": ratio("untrained")},
    )  # fmt: skip
    found["names"] = make(
        mean("f1", "trained"), unit="share", formula=f1,
        controls={"untrained": mean("f1", "untrained"), "neurons": mean("f1", "neurons")},
    )  # fmt: skip
    for name in ("completeness", "replacement", "needed", "logit_frozen"):
        for kind in ("trained", "untrained", "neurons"):
            unit = "1" if name == "needed" else "rho" if name == "logit_frozen" else "share"
            found[f"{name}_{kind}"] = make(mean(name, kind), unit=unit, formula=f"{name} of graphs, {kind}")
    return found


if __name__ == "__main__":
    run_step(measure)
