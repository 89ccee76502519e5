"""The middle hop: features of one name swapped for those of another, as Lindsey et al. 2025 swap Texas for California.

Two prompts have the same relation and names of different classes. The features of the first graph that matter most at
the last name are taken away. Those of the second graph are put in, in the model itself, attention free. If they carry
the class, the model now answers for the class of the other name.

A feature is named after what it fires on. The name is a value of first name, last name, class, relation or answer, or a
pair of values. It has the best F1 on all prompts at its position.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import node_influence
from replications.circuit_tracing.interventions import Subject, edited, reaching, written
from replications.circuit_tracing.settings import Task
from replications.circuit_tracing.task import FIRST, LAST, RELATION, Tables


class Name(NamedTuple):
    """What a feature fires on, and how well that describes it."""

    kind: str
    value: str
    f1: float

    def __str__(self) -> str:
        return self.value if self.kind == "pair" else f"{self.kind} {self.value}".strip()


def most_influential(graph: Graph, count: int, *, at: int | None = None) -> Int[Tensor, " some"]:
    """The features with the most influence on the logits, of one position or of all."""
    score = node_influence(graph.adjacency, graph.logit_weights())[: graph.n_features]
    return strongest(graph, score, count, at=at)


def strongest(
    graph: Graph, score: Float[Tensor, " feature"], count: int, *, at: int | None = None
) -> Int[Tensor, " some"]:
    """The features with the highest score among those that can change the answer, of one position or of all."""
    allowed = reaching(graph)
    if at is not None:
        allowed &= graph.features.pos == at
    chosen = allowed.nonzero()[:, 0]
    return chosen[score[chosen].topk(min(count, len(chosen))).indices]


def swap(subject: Subject, graph: Graph, other: Graph, chosen: Int[Tensor, " some"], new: Int[Tensor, " more"]) -> int:
    """The token that is answered with `chosen` features of `graph` taken away and `new` ones of `other` put in."""
    like = graph.frozen.mlp_out
    added = written(other.features, new, like) - written(graph.features, chosen, like)
    return int(edited(subject, added[:, None], frozen=False).logits[0, -1].argmax())


def values(tables: Tables, task: Task) -> dict[int, list[tuple[str, Int[Tensor, " prompt"]]]]:
    """What may name a feature, by position: the kind, and its value on every prompt; the simplest first."""
    first = tables.prompts[:, FIRST] - 1
    last = tables.prompts[:, LAST] - 1 - task.names
    relation = tables.prompts[:, RELATION] - 1 - 2 * task.names
    answer = tables.correct - 1 - 2 * task.names - task.relations
    name, pair = first * task.names + last, relation * task.classes + tables.middle
    at_last = [("first", first), ("last", last), ("class", tables.middle), ("name", name)]
    own = [("relation", relation), ("class", tables.middle), ("answer", answer), ("pair", pair)]
    return {FIRST: [("first", first)], LAST: at_last, RELATION: own + at_last[:2] + at_last[3:]}


def named(firing: Bool[Tensor, " prompt"], among: list[tuple[str, Int[Tensor, " prompt"]]], task: Task) -> Name:
    """The best name of a feature that fires on these prompts."""
    best = Name("rare", "", 0.0)
    for kind, value in among:
        hits = torch.bincount(value[firing], minlength=int(value.max()) + 1).double()
        f1 = 2 * hits / (firing.sum() + torch.bincount(value)).clamp(min=1)
        top = int(f1.argmax())
        if float(f1[top]) > best.f1 + 1e-9:
            best = Name(kind, _spelt(kind, top, task), float(f1[top]))
    return best


def _spelt(kind: str, value: int, task: Task) -> str:
    if kind == "name":
        return f"{value // task.names}-{value % task.names}"
    if kind == "pair":
        return f"relation {value // task.classes} & class {value % task.classes}"
    return str(value)
