"""Knock-outs of edges: the circuit as the paths between its heads, not as its heads (Miller et al. 2024).

An edge runs from a node of the circuit to what path patching lets it reach (sweeps.py):

    END      the logits, and the queries of name movers and S-suppressing heads
    S2       keys and values of the KV heads that serve S-inhibition and S-suppressing heads
    S1+1     keys of the KV heads that serve induction heads

and from any node to every MLP. What embedding and MLPs write is read by all, as in node knock-outs. Each reader has an
input of its own: with the circuit kept, all heads as they are when replaced, plus (output minus replacement) of the
nodes with an edge to it; with the circuit taken out, the stream as it is, plus (replacement minus output) of these. An
edge carries its node's position alone, or all positions. With an edge from every node to every reader this is the
knock-out of nodes (test).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.interp.edge_graph import Graph, forward_by_reader
from replications.ioi_circuit.knockout import Ablation, Direction, KnockOut
from replications.ioi_circuit.nodes import Node, node_set


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
    found = []
    for node in sorted(node_set(chosen)):
        readers = torch.zeros(graph.n_readers, dtype=torch.bool)
        readers[[graph.reader(layer, "mlp") for layer in range(graph.n_layers)] + reached[str(node.place)]] = True
        found.append(Sender(node, readers))
    return found


def everywhere(senders: list[Sender]) -> list[Sender]:
    """The same edges at all positions: each head once, with the edges of all its nodes."""
    heads = sorted({(sender.node.layer, sender.node.head) for sender in senders})
    return [
        Sender(
            Node(*head, None),
            torch.stack([s.readers for s in senders if (s.node.layer, s.node.head) == head]).any(0),
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
    found: np.ndarray = where.read(final[None])[0]
    return found


def _positions(where: KnockOut, node: Node) -> Bool[Tensor, "batch pos"]:
    """Where in each prompt the edges of a node carry."""
    mask = where.batch.mask
    if node.place is None:
        return torch.ones_like(mask)
    return torch.arange(mask.shape[1], device=mask.device) == where.positions[node.place][:, None]
