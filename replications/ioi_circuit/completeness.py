"""Completeness and minimality (Wang et al. 2022, section 4): does the circuit break as the model does?

A faithful circuit may still miss the heads that take over when others fail. So parts K are taken out of the circuit C
and out of the whole model M: by class, at random (each node with probability 1/2), and greedily, growing K by the
candidate that drives F(C minus K) and F(M minus K) furthest apart (the objective of the released code; the paper's
algorithm 3 maximises the change of F(C minus K) instead). F is the mean logit difference.

    gap            |F(M minus K) - F(C minus K)| / F(M)
    minimality     |F(C minus (K and v)) - F(C minus K)| / F(M) for each node v, K the other nodes of its class
    additions      |F(C and v) - F(C)| / F(M) for random nodes v outside: what a stranger is worth

In M minus K a head is removed at its circuit position only; in C minus K it is gone everywhere.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.labels import CLASSES, NAMED
from replications.ioi_circuit.nodes import PLACES, Node, NodeSet, node_set

EVERYTHING: NodeSet = frozenset()
"""Removing nothing: the whole model."""
HELPFUL = ("name_mover", "s_suppressing", "s_inhibition", "induction", "duplicate", "previous")


@dataclass(frozen=True)
class Greedy:
    """How far greedy completeness searches."""

    runs: int
    iterations: int
    candidates: int


def classes_of(chosen: pd.DataFrame) -> dict[str, NodeSet]:
    """The nodes of each class that has any, backup name movers and heads without a class among them."""
    found = {name: node_set(chosen[chosen["class"] == name]) for name in (*CLASSES, "backup")}
    return {name: nodes for name, nodes in found.items() if nodes}


def circuits_of(chosen: pd.DataFrame, ranked: pd.DataFrame) -> dict[str, NodeSet]:
    """The circuit, its heads with a helpful class alone (naive), and the two strongest nodes."""
    return {
        "circuit": node_set(chosen),
        "naive": node_set(chosen[chosen["class"].isin(HELPFUL)]),
        "two_nodes": node_set(ranked.iloc[:2]),
    }


def by_class(
    where: KnockOut, circuits: dict[str, NodeSet], classes: dict[str, NodeSet]
) -> tuple[dict[str, Float[np.ndarray, " prompt"]], dict[str, dict[str, Float[np.ndarray, " prompt"]]]]:
    """F(M minus K) for each class, and F(C minus K) for each circuit and class; 'none' stands for K empty."""
    parts = {"none": EVERYTHING, **classes}
    removed = dict(zip(parts, where.differences(list(parts.values()), remove=True), strict=True))
    sets = [nodes - part for nodes in circuits.values() for part in parts.values()]
    kept = iter(where.differences(sets))
    return removed, {name: {part: next(kept) for part in parts} for name in circuits}


def random_parts(where: KnockOut, nodes: NodeSet, draws: int, seed: int) -> Float[np.ndarray, "draw two"]:
    """F(C minus K) and F(M minus K) for random K, each node with probability 1/2."""
    generator = np.random.default_rng(seed)
    ordered = sorted(nodes)
    parts = [frozenset(node for node in ordered if generator.random() < 0.5) for _ in range(draws)]
    return _both(where, nodes, parts)


def greedy_parts(where: KnockOut, nodes: NodeSet, greedy: Greedy, seed: int) -> Float[np.ndarray, "step two"]:
    """F(C minus K) and F(M minus K) after each step of each greedy run."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(greedy.runs):
        taken: NodeSet = frozenset()
        for _ in range(min(greedy.iterations, len(nodes))):
            left = sorted(nodes - taken)
            picked = generator.choice(len(left), min(greedy.candidates, len(left)), replace=False)
            parts = [taken | {left[number]} for number in picked]
            values = _both(where, nodes, parts)
            best = int(np.abs(values[:, 0] - values[:, 1]).argmax())
            taken = parts[best]
            found.append(values[best])
    return np.stack(found)


def _both(where: KnockOut, nodes: NodeSet, parts: list[NodeSet]) -> Float[np.ndarray, "part two"]:
    kept = where.differences([nodes - part for part in parts]).mean(1)
    return np.stack([kept, where.differences(parts, remove=True).mean(1)], 1)


def gaps(values: Float[np.ndarray, "part two"], model: float) -> Float[np.ndarray, " part"]:
    """|F(M minus K) - F(C minus K)| / F(M)."""
    found: np.ndarray = np.abs(values[:, 1] - values[:, 0]) / model
    return found


def minimality(where: KnockOut, chosen: pd.DataFrame) -> list[float]:
    """The score of each node; see the module's docstring. Nodes without a class are judged alone (K empty)."""
    nodes = node_set(chosen)
    without, without_also = [], []
    for index, row in chosen.iterrows():
        same = chosen[(chosen["class"] == row["class"]) & (chosen.index != index)]
        rest = node_set(same) if row["class"] in NAMED else EVERYTHING
        without.append(nodes - rest)
        without_also.append(nodes - rest - node_set(chosen.loc[[index]]))
    distinct = sorted(set(without) | set(without_also), key=sorted)
    value = dict(zip(distinct, where.differences(distinct).mean(1), strict=True))
    whole = where.differences([EVERYTHING], remove=True)[0].mean()
    pairs = zip(without, without_also, strict=True)
    return [float(abs(value[also] - value[rest]) / whole) for rest, also in pairs]


def additions(where: KnockOut, chosen: pd.DataFrame, draws: int, seed: int) -> Float[np.ndarray, " draw"]:
    """What random nodes outside the circuit add to it, each alone; see the module's docstring."""
    nodes, heads = node_set(chosen), where.decoder.n_heads
    every = np.ndindex(where.decoder.n_layers, heads, len(PLACES))
    outside = sorted({Node(layer, head, PLACES[place]) for layer, head, place in every} - nodes)
    picked = np.random.default_rng(seed).choice(len(outside), min(draws, len(outside)), replace=False)
    values = where.differences([nodes, *(nodes | {outside[number]} for number in picked)]).mean(1)
    whole = where.differences([EVERYTHING], remove=True)[0].mean()
    found: np.ndarray = np.abs(values[1:] - values[0]) / whole
    return found
