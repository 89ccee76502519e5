"""Nodes of a circuit, a head at one of three positions each, sets of them, and the names of their classes.

Heads with an effect that meet no rule are `unclassified`, those whose class does not hold in `STABLE` of all resamples
of the prompts are `unstable`. Backup name movers (`backup`) are found by another test (name_movers.py).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from replications.ioi_circuit.batches import Place

PLACES: tuple[Place, ...] = ("s1_next", "s2", "end")
PLACE_OF_RECEIVER: dict[str, Place] = {
    "logits": "end",
    "mover_queries": "end",
    "inhibition_values": "s2",
    "inhibition_keys": "s2",
    "induction_keys": "s1_next",
}
CLASSES = (
    "name_mover",
    "negative",
    "s_suppressing",
    "s_copying",
    "end_reader",
    "s_inhibition",
    "induction",
    "duplicate",
    "previous",
)
UNNAMED = ("unclassified", "unstable")
NAMED = (*CLASSES, "backup")
"""Everything that is a class."""
STABLE = 0.8
"""A head has a class if it has it in at least this share of the resamples."""


@dataclass(frozen=True, order=True)
class Node:
    """A head at one of the three positions; `place` None means at every position."""

    layer: int
    head: int
    place: Place | None

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}@{self.place or 'all'}"


NodeSet = frozenset[Node]


def node_set(table: pd.DataFrame) -> NodeSet:
    """The nodes of some rows."""
    rows = zip(table["layer"], table["head"], table["place"], strict=True)
    return frozenset(Node(int(layer), int(head), place) for layer, head, place in rows)


def others_of_layers(heads: list[int], n_heads: int, spared: set[int], generator: np.random.Generator) -> list[int]:
    """For each head another one of its layer, none twice and none of `spared`; fewer where a layer has too few.

    Heads are numbered through all layers.
    """
    picked: list[int] = []
    for head in heads:
        first = head - head % n_heads
        free = [other for other in range(first, first + n_heads) if other not in spared and other not in picked]
        picked += [int(generator.choice(free))] if free else []
    return picked


def random_like(nodes: NodeSet, n_heads: int, draws: int, seed: int) -> list[NodeSet]:
    """Random node sets with as many nodes in each layer at each position as `nodes`, drawn among all heads."""
    generator = np.random.default_rng(seed)
    counts: dict[tuple[int, Place | None], int] = {}
    for node in sorted(nodes):
        key = (node.layer, node.place)
        counts[key] = counts.get(key, 0) + 1
    return [
        frozenset(
            Node(layer, int(head), place)
            for (layer, place), count in counts.items()
            for head in generator.choice(n_heads, count, replace=False)
        )
        for _ in range(draws)
    ]
