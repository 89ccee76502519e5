"""The 26 heads of GPT-2 small that Wang et al. (2022, figure 2) name, at the positions where they are kept.

They stand beside the circuits of our models in the transfer figure. When the model is `gpt2`, the rules find heads
without knowing this list and are held against it. The naive circuit is that of the released code. None of our steps has
been run on GPT-2 (needs HUB=1).
"""

import numpy as np
import pandas as pd

from common.core.errors import UserError
from common.core.metrics import Metric
from replications.ioi_circuit.completeness import by_class, measure_classes
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER, Node, NodeSet, random_like
from replications.ioi_circuit.prompt_statistics import beside_null, clustered

MODEL = "gpt2"
HEADS = {
    "previous": ("s1_next", "2.2 4.11"),
    "duplicate": ("s2", "0.1 3.0 0.10"),
    "induction": ("s2", "5.5 6.9 5.8 5.9"),
    "s_inhibition": ("end", "7.3 7.9 8.6 8.10"),
    "name_mover": ("end", "9.9 10.0 9.6"),
    "negative": ("end", "10.7 11.10"),
    "backup": ("end", "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9"),
}
FAITHFULNESS = 0.87
"""Of the published circuit (section 4; 0.86 in the released data)."""
WHOLE = 3.302
LEFT = {
    "previous": 2.900,
    "duplicate": 1.515,
    "induction": 1.571,
    "s_inhibition": 0.297,
    "name_mover": 3.329,
    "negative": 5.620,
}
"""F(M) and F(M minus K) of the released data, in logits; K are the heads of a class (the three name movers alone)."""
NAIVE = ["9.6", "9.9", "10.0", "7.3", "7.9", "8.6", "8.10", "5.5", "5.9", "3.0", "0.10", "2.2", "4.11"]


def parse_head(label: str, n_layers: int, n_heads: int) -> tuple[int, int]:
    """Layer and head of a label such as '9.6'. UserError if the model has no such head."""
    layer, _, head = label.partition(".")
    if layer.isdecimal() and head.isdecimal() and int(layer) < n_layers and int(head) < n_heads:
        return int(layer), int(head)
    raise UserError(
        f"unknown head '{label}': heads of this model are written layer.head, from 0.0 to "
        f"{n_layers - 1}.{n_heads - 1}; correct the label in replications/ioi_circuit/published.py"
    )


def published_classes(n_layers: int = 12, n_heads: int = 12) -> dict[str, NodeSet]:
    """The nodes of each class. Movers and backups are one class when they are knocked out, as in the released data.

    UserError if a model of this size lacks one of the heads.
    """
    classes: dict[str, NodeSet] = {}
    for name, (place, heads) in HEADS.items():
        pairs = (parse_head(label, n_layers, n_heads) for label in heads.split())
        classes[name] = frozenset(Node(layer, head, place) for layer, head in pairs)  # type: ignore[arg-type]
    return classes


def naive_nodes() -> NodeSet:
    """The thirteen heads of the naive circuit."""
    return frozenset(node for nodes in published_classes().values() for node in nodes if _label(node) in NAIVE)


def overlap(ranked: list[tuple[int, int]], kind: str) -> float:
    """Share of the published heads of a class among as many heads of a ranked list."""
    wanted = set(HEADS[kind][1].split())
    return len(wanted & {f"{layer}.{head}" for layer, head in ranked[: len(wanted)]}) / len(wanted)


def measure_published(where: KnockOut, draws: int) -> dict[str, Metric]:
    """The published circuit by the paper's own tests: faithfulness, classes taken out of circuit and model, naive."""
    size = where.decoder.n_layers, where.decoder.n_heads
    classes = published_classes(*size)
    nodes = frozenset(node for part in classes.values() for node in part)
    classes["name_mover"] |= classes.pop("backup")
    removed, kept = by_class(where, {"circuit": nodes, "naive": naive_nodes()}, classes)
    movers = published_classes(*size)["name_mover"]
    [without_movers] = where.differences([movers], remove=True)
    model, prompts = removed["none"], where.prompts
    return {
        "published_faithfulness": clustered(
            kept["circuit"]["none"],
            prompts,
            unit="1",
            formula="published circuit, F(C) / F(M); random heads: same layers and positions",
            denominators=model,
            controls={"naive": kept["naive"]["none"]},
            draws={"random_heads": where.differences(random_like(nodes, size[1], draws, seed=1))},
        ),
        "published_drop_without_movers": clustered(
            model - without_movers,
            prompts,
            unit="1",
            formula="(F(M) - F(M minus K)) / F(M)",
            denominators=model,
            controls={"movers_and_backups": model - removed["name_mover"]},
        ),
        "published_class_gap": measure_classes(removed, kept, prompts)["circuit_class_gap"],
    }


def measure_overlap(heads: pd.DataFrame, draws: int) -> dict[str, Metric]:
    """How many of the published heads stand first in the two sweeps whose receivers sit at END, and how many of all but
    the backup name movers get their class by rule."""
    pairs = list(zip(heads["layer"].astype(int), heads["head"].astype(int), strict=True))
    generator = np.random.default_rng(0)
    named_as = {
        pair: {row[f"{name}_class"] for name in PLACE_OF_RECEIVER}
        for pair, (_, row) in zip(pairs, heads.fillna("").iterrows(), strict=True)
    }
    classes = published_classes(*_size(pairs))
    wanted = [(node.layer, node.head, kind) for kind in classes for node in sorted(classes[kind]) if kind != "backup"]
    named = float(np.mean([kind in named_as[layer, head] for layer, head, kind in wanted]))
    shuffled = [[named_as[pairs[i]] for i in generator.permutation(len(pairs))[: len(wanted)]] for _ in range(draws)]
    chance = np.array([np.mean([kind in own for own, (*_, kind) in zip(one, wanted, strict=True)]) for one in shuffled])
    text = "share of the published heads that get their class by rule"
    null = {"unit": "share", "name": "shuffled_heads"}
    metrics = {"published_named": beside_null(named, len(wanted), chance, formula=text, **null)}
    for kind, column, sign in (
        ("name_mover", "logits", 1), ("negative", "logits", -1), ("s_inhibition", "mover_queries", 1)
    ):  # fmt: skip
        ranked = [pairs[row] for row in np.argsort(sign * heads[column].to_numpy(), kind="stable")]
        share = overlap(ranked, kind)
        luck = np.array([overlap([ranked[i] for i in generator.permutation(len(ranked))], kind) for _ in range(draws)])
        text = f"share of the published {kind} heads among as many strongest heads ({column})"
        n = len(HEADS[kind][1].split())
        metrics[f"published_{kind}_found"] = beside_null(share, n, luck, formula=text, **null)
    return metrics


def _size(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    """Layers, and heads in a layer."""
    return max(layer for layer, _ in pairs) + 1, max(head for _, head in pairs) + 1


def _label(node: Node) -> str:
    return f"{node.layer}.{node.head}"
