"""One circuit, many numbers: faithfulness under each ablation choice of Miller et al. (2024).

Of their six choices:

    component     nodes: heads at a position; edges: the paths between them (below). Not branches
    value         mean over ABC prompts, zero, output on the ABC partner (resample), output with noisy names
    positions     own: a node at its own position; all: at every position
    set           complement: all but the circuit is ablated; circuit: the circuit itself
    direction     destroy: ablate in a run on the prompt; restore: put clean outputs into a run on the ABC partner or
                  with noisy names (means and zero are no runs). Restoring the complement leaves the circuit corrupted
    granularity   heads only

and the number of prompts in a mean. Beside the ratio of averages stand the average of ratios, which a few prompts near
zero can move anywhere, its median and quartiles, the shares of prompts below 0 and above 2, the two orders of the names
apart, and the templates with the smallest and largest ratio.

An edge runs from a node of the circuit to what path patching lets it reach (sweeps.py), and from any node to every MLP:

    END      the logits, and the queries of name movers and S-suppressing heads
    S2       keys and values of the KV heads that serve S-inhibition and S-suppressing heads
    S1+1     keys of the KV heads that serve induction heads

What embedding and MLPs write is read by all, as in node knock-outs. Each reader has an input of its own. With the
circuit kept, that is all heads as they are when replaced, plus (output minus replacement) of the nodes with an edge to
it; with the circuit taken out, the stream as it is, plus (replacement minus output) of these. An edge carries its
node's position alone, or all positions. With an edge from every node to every reader this is the knock-out of nodes
(test).
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric
from common.core.statistics import without_interval
from common.interp.edge_graph import Graph, forward_by_reader
from replications.ioi_circuit.completeness import Runs
from replications.ioi_circuit.knockout import Ablation, Direction, KnockOut
from replications.ioi_circuit.nodes import Node, node_set
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered
from replications.ioi_circuit.trivial_circuits import FAITHFULNESS, REPETITION, what_repeats

CELLS: list[tuple[Direction, Ablation]] = [
    ("destroy", "mean"), ("destroy", "zero"), ("destroy", "resample"), ("destroy", "noise"),
    ("restore", "resample"), ("restore", "noise"),
]  # fmt: skip


def ablation_grid(where: KnockOut, few: KnockOut, chosen: pd.DataFrame, small_group: int) -> pd.DataFrame:
    """One row per choice.

    Args:
        where: verification prompts.
        few: the same with means from `small_group` prompts.
        chosen: nodes of the circuit with their classes.
        small_group: prompts in the smaller template means.
    """
    nodes = node_set(chosen)
    node_parts = {"own": nodes, "all": frozenset(Node(node.layer, node.head, None) for node in nodes)}
    senders = path_edges(Graph.of(where.decoder), chosen)
    edge_parts = {"own": senders, "all": everywhere(senders)}
    model = where.differences([frozenset()], remove=True)[0]
    abba = np.array([prompt.order == "ABBA" for prompt in where.prompts])
    of_template = [
        np.array([row.template == one for row in where.prompts]) for one in {row.template for row in where.prompts}
    ]
    records = []

    def add(values: Float[np.ndarray, " prompt"], **choice: str) -> None:
        ratios = values / model
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        by_template = [values[rows].mean() / model[rows].mean() for rows in of_template]
        records.append(
            choice
            | {
                "ratio_of_averages": values.mean() / model.mean(),
                "average_of_ratios": ratios.mean(),
                "median_of_ratios": middle,
                "quartile_low": low,
                "quartile_high": high,
                "share_below_0": (values < 0).mean(),
                "share_above_2": (ratios > 2).mean(),
                "ratio_abba": values[abba].mean() / model[abba].mean(),
                "ratio_baba": values[~abba].mean() / model[~abba].mean(),
                "smallest_template": min(by_template),
                "largest_template": max(by_template),
            }
        )

    for direction, ablation in CELLS:
        change = where.differences if direction == "destroy" else where.restored
        for positions, side in itertools.product(("own", "all"), ("complement", "circuit")):
            of_circuit = side == "circuit"
            # restored(remove=True) puts clean outputs in all but the set; differences(remove=False) ablates all but it
            remove = of_circuit == (direction == "destroy")
            by_node = change([node_parts[positions]], remove=remove, ablation=ablation)[0]
            by_edge = edge_differences(where, edge_parts[positions], direction, ablation, replaced=of_circuit)
            choice = {
                "ablation": ablation,
                "positions": positions,
                "set": side,
                "direction": direction,
                "prompts": "all",
            }
            add(by_node, component="nodes", **choice)
            add(by_edge, component="edges", **choice)
        where.forget(direction, ablation)
    choice = {"ablation": "mean", "positions": "own", "set": "complement", "direction": "destroy"}
    add(few.differences([nodes])[0], component="nodes", **choice, prompts=str(small_group))
    return pd.DataFrame(records)


def measure_grid(grid: pd.DataFrame) -> dict[str, Metric]:
    """How far faithfulness goes with the choice: smallest and largest of the rows that keep the circuit, both averages.

    Kept are the rows that ablate the complement and those that put the circuit back.
    """
    kept = grid[(grid["set"] == "complement") == (grid["direction"] == "destroy")]
    metrics = {}
    for column in ("ratio_of_averages", "average_of_ratios"):
        for name, value in (("smallest", kept[column].min()), ("largest", kept[column].max())):
            text = f"{name} {column.replace('_', ' ')} over {len(kept)} ways to keep the circuit"
            metrics[f"grid_{name}_{column}"] = without_interval(float(value), len(kept), "1", text)
    return metrics


def measure_edges(where: KnockOut, blind: KnockOut, chosen: pd.DataFrame) -> dict[str, Metric]:
    """The circuit as the edges that are drawn, each at its own position, everything else at its mean.

    Args:
        where: verification prompts.
        blind: their ABC partners, scored on their own names.
        chosen: nodes of the circuit with their classes.
    """
    nodes, senders = node_set(chosen), path_edges(Graph.of(where.decoder), chosen)
    sides = []
    for one in (where, blind):
        of_nodes, nothing = one.differences([nodes, frozenset()])
        of_edges = edge_differences(one, senders, "destroy", "mean", replaced=False)
        sides.append({"edges": of_edges, "nodes": of_nodes, "no_node": nothing})
    [model], [abc_model] = (one.differences([frozenset()], remove=True) for one in (where, blind))
    repeated, whole, _ = what_repeats(sides[0], sides[1], model - abc_model)

    def share(values: Runs, below: PerPrompt, text: str) -> Metric:
        controls = {"nodes": values["nodes"]}
        return clustered(values["edges"], where.prompts, unit="1", formula=text, denominators=below, controls=controls)

    return {
        "edges_faithfulness": share(sides[0], model, f"{FAITHFULNESS}, edges drawn"),
        "edges_repetition": share(repeated, whole, f"{REPETITION}, edges drawn"),
    }


@dataclass(frozen=True)
class Sender:
    """A node, and True for each reader it has an edge to."""

    node: Node
    readers: Bool[Tensor, " reader"]


def path_edges(graph: Graph, chosen: pd.DataFrame) -> list[Sender]:
    """The edges of the module's docstring, from the table of the circuit's nodes."""

    def inputs(kinds: str, *classes: str) -> list[int]:
        rows = chosen[chosen["class"].isin(classes)]
        group = graph.n_heads // graph.n_kv_heads
        pairs = list(zip(rows["layer"].astype(int), rows["head"].astype(int), strict=True))
        return [graph.reader(at, kind, head if kind == "q" else head // group) for kind in kinds for at, head in pairs]

    movers = ("name_mover", "s_suppressing")
    reached = {
        "end": [graph.reader(0, "logits"), *inputs("q", *movers)],
        "s2": inputs("kv", "s_inhibition", "s_suppressing") or inputs("kv", *movers),
        "s1_next": inputs("k", "induction"),
    }
    edges = []
    for node in sorted(node_set(chosen)):
        readers = torch.zeros(graph.n_readers, dtype=torch.bool)
        readers[[graph.reader(layer, "mlp") for layer in range(graph.n_layers)] + reached[str(node.place)]] = True
        edges.append(Sender(node, readers))
    return edges


def everywhere(senders: list[Sender]) -> list[Sender]:
    """The same edges at all positions: each head once, with the edges of all its nodes."""
    heads = sorted({(sender.node.layer, sender.node.head) for sender in senders})
    return [
        Sender(
            Node(*head, None), torch.stack([s.readers for s in senders if (s.node.layer, s.node.head) == head]).any(0)
        )
        for head in heads
    ]


def edge_differences(
    where: KnockOut, senders: list[Sender], direction: Direction, ablation: Ablation, *, replaced: bool
) -> Float[np.ndarray, " prompt"]:
    """logit(IO) - logit(S) of every prompt with only these edges left in a run, or only these replaced.

    Args:
        where: prompts and what replaces heads.
        senders: the edges.
        direction: destroy replaces by ablated outputs in a run on the prompt, restore by clean ones in a corrupted run.
        ablation: see `KnockOut.differences`.
        replaced: True replaces these edges, False all others.
    """
    decoder, graph = where.decoder, Graph.of(where.decoder)
    run, values = where.run_and_values(direction, ablation)
    start = run if replaced else where.all_replaced(direction, ablation)
    first = min((sender.node.layer for sender in senders), default=decoder.n_layers - 1)
    own = [_positions(where, sender.node) for sender in senders]
    stream: list[Tensor] = []  # what everybody reads
    changes: list[Tensor] = []  # of each sender so far, in the order of `senders`

    def read(layer: int, what: str, written: list[Tensor]) -> Tensor:
        new = written[-1].sum(0)
        if what == "mlp":
            frozen = decoder.write(layer, values[layer])
            new = new + decoder.output_bias(layer) if replaced else frozen
            for number, sender in enumerate(senders):
                if sender.node.layer == layer:
                    head = sender.node.head
                    change = written[-1][head] - values[layer][:, :, head] @ decoder.W_O[layer][head]
                    changes.append((-change if replaced else change) * own[number][..., None])
        stream[:] = [stream[0] + new if stream else new]
        at = graph.reader(layer, {"attn": "q"}.get(what, what))
        count = graph.attention_readers if what == "attn" else 1
        if not changes:
            return stream[0].expand(count, *stream[0].shape)
        weights = torch.stack([sender.readers[at : at + count] for sender in senders[: len(changes)]], 1)
        moved = torch.einsum("rn,nbpd->rbpd", weights.to(stream[0]), torch.stack(changes))
        return stream[0] + moved

    final = forward_by_reader(decoder, first, start.resid_pre[first][None], where.batch.mask, read)
    differences: np.ndarray = where.read(final[None])[0]
    return differences


def _positions(where: KnockOut, node: Node) -> Bool[Tensor, "batch pos"]:
    """Where in each prompt the edges of a node carry."""
    mask = where.batch.mask
    if node.place is None:
        return torch.ones_like(mask)
    return torch.arange(mask.shape[1], device=mask.device) == where.positions[node.place][:, None]
