"""The computational graph of a decoder as a tensor of edges: first-order scores, and runs of any circuit.

Writers are the embedding, every head and every MLP. Readers are the queries of every head, the keys and values of every
*key-value* head, every MLP, and the logits. With grouped-query attention a path into the key of one query head does not
exist. An edge (u, r) is in a circuit or not, and carries what u writes at all positions. Outside the circuit it carries
what u writes on the partner prompt:

    input of r  =  partner's residual stream at r  +  sum over u in the circuit's edges of (out_u - partner's out_u)

Scores (m the metric, c the prompt, p its partner; gradients on the prompt):
    EAP (Syed et al. 2023)          (out_u(p) - out_u(c)) . dm / d input_r
    EAP-IG (Hanna et al. 2024)      the same with the gradient averaged over embeddings between p and c
    attribution patching of a node  sum of its edges' scores, as all it does passes through them

Own tensor code: TransformerLens 4.3 refuses edges with grouped-query attention, and keeps one Python key per edge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import einops
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from common.interp.decoder import Cache, Decoder, masked_softmax

PRODUCT_FROM = 0.25  # share of the edges held; with fewer, sums row by row are faster than a product

Metric = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, " batch"]]
"""From the final residual stream to one number a prompt."""


@dataclass(frozen=True)
class Graph:
    """Numbers of writers and readers. Writers: embedding, then layer by layer the heads and the MLP. Readers: layer by
    layer queries, keys, values, MLP; last the logits."""

    n_layers: int
    n_heads: int
    n_kv_heads: int

    @classmethod
    def of(cls, decoder: Decoder) -> "Graph":
        return cls(decoder.n_layers, decoder.n_heads, decoder.n_kv_heads)

    @property
    def n_writers(self) -> int:
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def attention_readers(self) -> int:
        """Readers of one attention layer."""
        return self.n_heads + 2 * self.n_kv_heads

    @property
    def n_readers(self) -> int:
        return self.n_layers * (self.attention_readers + 1) + 1

    def head(self, layer: int, head: int) -> int:
        """The writer that is this head."""
        return 1 + layer * (self.n_heads + 1) + head

    def reader(self, layer: int, kind: str, head: int = 0) -> int:
        """The reader that is this input; `kind` is q, k, v, mlp or logits."""
        offset = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads, "mlp": self.attention_readers}
        return self.n_readers - 1 if kind == "logits" else layer * (self.attention_readers + 1) + offset[kind] + head

    def writers_before(self, layer: int, *, mlp: bool) -> int:
        """How many writers the attention, or the MLP, of a layer can read."""
        return 1 + layer * (self.n_heads + 1) + (self.n_heads if mlp else 0)

    def edges(self) -> Bool[Tensor, "writer reader"]:
        """True where the writer comes before the reader."""
        found = torch.zeros(self.n_writers, self.n_readers, dtype=torch.bool)
        for layer in range(self.n_layers):
            first = self.reader(layer, "q")
            found[: self.writers_before(layer, mlp=False), first : first + self.attention_readers] = True
            found[: self.writers_before(layer, mlp=True), first + self.attention_readers] = True
        found[:, -1] = True
        return found

    def feeds(self) -> Bool[Tensor, "reader writer"]:
        """True where the writer computes from the reader: a head from its queries and its group's keys and values."""
        found = torch.zeros(self.n_readers, self.n_writers, dtype=torch.bool)
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                group = head // (self.n_heads // self.n_kv_heads)
                for kind, own in (("q", head), ("k", group), ("v", group)):
                    found[self.reader(layer, kind, own), self.head(layer, head)] = True
            found[self.reader(layer, "mlp"), self.head(layer, self.n_heads)] = True
        return found

    def writer_names(self) -> list[str]:
        """'embedding', '3.1' for a head, 'mlp 3'."""
        layers = range(self.n_layers)
        return ["embedding"] + [
            name for layer in layers for name in (*(f"{layer}.{h}" for h in range(self.n_heads)), f"mlp {layer}")
        ]

    def reader_names(self) -> list[str]:
        """'3.1 q', '3.0 k' (a KV head), 'mlp 3', 'logits'."""
        names = []
        for layer in range(self.n_layers):
            names += [f"{layer}.{head} q" for head in range(self.n_heads)]
            names += [f"{layer}.{head} {kind}" for kind in "kv" for head in range(self.n_kv_heads)]
            names.append(f"mlp {layer}")
        return [*names, "logits"]


Read = Callable[[int, str, list[Tensor]], Tensor]
"""Given a layer, what reads there ('attn', 'mlp' or 'logits') and the writers' outputs so far [writer batch pos
d_model], returns the input of each reader there [reader batch pos d_model]."""


def forward_by_reader(
    decoder: Decoder,
    first: int,
    known: Float[Tensor, "writer batch pos d_model"],
    mask: Bool[Tensor, "batch pos"],
    read: Read,
) -> Float[Tensor, "batch pos d_model"]:
    """A forward pass from layer `first` on, in which every reader has an input of its own; the input of the logits.
    `known` is what the writers before that layer wrote: in a whole pass, the embedding."""
    at = torch.arange(known.shape[-2], device=known.device)
    allowed = (at[:, None] >= at) & mask[:, None, None, :]
    allowed = allowed | torch.eye(len(at), dtype=torch.bool, device=at.device)
    written = [known]
    heads, kv = decoder.n_heads, decoder.n_kv_heads
    for layer in range(first, decoder.n_layers):
        normed = decoder.norm(layer, 0, read(layer, "attn", written))
        q = decoder.each_head(layer, "q", normed[:heads], at)
        k = decoder.each_head(layer, "k", normed[heads : heads + kv], at)
        v = decoder.each_head(layer, "v", normed[heads + kv :], at)
        z = decoder.mix(masked_softmax(decoder.scores(q, k), allowed), v)
        written.append(torch.einsum("bphe,hed->hbpd", z, decoder.W_O[layer]))
        written.append(decoder.mlp(layer, read(layer, "mlp", written)[0])[None])
    return read(decoder.n_layers, "logits", written)[0]


def outputs(decoder: Decoder, cache: Cache, below: int) -> Float[Tensor, "writer batch pos d_model"]:
    """What every writer before layer `below` wrote in a pass with `keep`. Attention's biases belong to no writer."""
    written = [cache.resid_pre[0][None]]
    after = [*cache.resid_pre[1:], cache.final]
    for layer in range(below):
        written.append(torch.einsum("bphe,hed->hbpd", cache.z[layer], decoder.W_O[layer]))
        written.append((after[layer] - cache.resid_mid[layer])[None])
    return torch.cat(written)


class Finders(NamedTuple):
    """Scores of all edges, averaged over prompts, with the sign of the change a partner makes; 0 where none is."""

    eap: Float[Tensor, "writer reader"]
    eap_ig: Float[Tensor, "writer reader"]
    sizes_alone: Float[Tensor, "writer reader"]
    """EAP as if every change pointed along its gradient: the product of their norms, summed over positions. A control:
    the sizes without the direction"""


def edge_scores(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    mask: Bool[Tensor, "batch pos"],
    metric: Metric,
    steps: int,
) -> Finders:
    """EAP, EAP-IG and sizes alone, from one set of changes and gradients.

    Args:
        decoder: the model.
        cache: pass over the prompts, with `keep`.
        partner: pass over their partners, with `keep`.
        mask: True where a token is real.
        metric: differentiable.
        steps: of EAP-IG, points between partner and prompt, the prompt included, the partner not.
    """
    graph = Graph.of(decoder)
    change = outputs(decoder, partner, decoder.n_layers) - outputs(decoder, cache, decoder.n_layers)
    change *= mask[None, :, :, None]
    flat, norms = change.flatten(1), change.norm(dim=-1).flatten(1)
    totals: dict[int, Tensor] = {}
    for step in range(1, steps + 1):
        weight = step / steps
        embedded = weight * cache.resid_pre[0] + (1 - weight) * partner.resid_pre[0]
        last = dict(_gradients(decoder, embedded, mask, metric))
        totals = {start: totals[start] + gradient if totals else gradient for start, gradient in last.items()}
    edges = graph.edges().to(flat.device)
    found = Finders(*(torch.zeros(edges.shape, device=flat.device) for _ in Finders._fields))
    for start, gradient in last.items():
        n, readers = int(edges[:, start].sum()), slice(start, start + len(gradient))
        found.eap[:n, readers] = flat[:n] @ gradient.flatten(1).T / len(mask)
        found.eap_ig[:n, readers] = flat[:n] @ totals[start].flatten(1).T / (steps * len(mask))
        found.sizes_alone[:n, readers] = norms[:n] @ gradient.norm(dim=-1).flatten(1).T / len(mask)
    return found


def _gradients(
    decoder: Decoder, embedded: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"], metric: Metric
) -> list[tuple[int, Float[Tensor, "reader batch pos d_model"]]]:
    """Gradient of the metric, summed over prompts, with respect to the input of each reader, and the first reader."""
    graph = Graph.of(decoder)
    probes: list[tuple[int, Tensor]] = []
    stream: list[Tensor] = []

    def read(layer: int, what: str, written: list[Tensor]) -> Tensor:
        new = written[-1].sum(0)
        if what == "mlp":
            new = new + decoder.output_bias(layer)
        stream[:] = [stream[0] + new if stream else new]
        count = graph.attention_readers if what == "attn" else 1
        first = graph.reader(layer, {"attn": "q"}.get(what, what))
        probe = torch.zeros(count, *embedded.shape, device=embedded.device, requires_grad=True)
        probes.append((first, probe))
        return stream[0] + probe

    with torch.enable_grad():
        total = metric(forward_by_reader(decoder, 0, embedded[None], mask, read)).sum()
        gradients = torch.autograd.grad(total, [probe for _, probe in probes])
    return [(first, gradient) for (first, _), gradient in zip(probes, gradients, strict=True)]


def run_circuits(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    mask: Bool[Tensor, "batch pos"],
    circuits: Bool[Tensor, "circuit writer reader"],
) -> Float[Tensor, "circuit batch pos d_model"]:
    """The input of the logits in each circuit: its edges carry the prompt, all others the partner.

    All edges give the model's own pass, none gives the partner's (tests). Up to the first layer in which a circuit
    lacks an edge, everything is as in the prompt's pass and taken from it.
    """
    graph, count = Graph.of(decoder), len(circuits)
    lacking = torch.nonzero((graph.edges().to(circuits.device) & ~circuits).any(0).any(0))
    first = int(lacking[0]) // (graph.attention_readers + 1) if len(lacking) else graph.n_layers
    known, base = outputs(decoder, cache, first), outputs(decoder, partner, decoder.n_layers)
    streams = {"attn": partner.resid_pre, "mlp": partner.resid_mid, "logits": [partner.final]}
    held = einops.rearrange(circuits, "c w r -> c r w")
    change = torch.empty(count, *base.shape, device=base.device)  # of every writer so far
    sizes: list[int] = []

    def read(layer: int, what: str, written: list[Tensor]) -> Tensor:
        for new in written[len(sizes) :]:
            start, stop = sum(sizes), sum(sizes) + len(new)
            change[:, start:stop] = einops.rearrange(new, "w (c b) p d -> c w b p d", c=count) - base[start:stop]
            sizes.append(len(new))
        n = sum(sizes)
        first = graph.reader(layer, {"attn": "q"}.get(what, what))
        readers = graph.attention_readers if what == "attn" else 1
        part = summed(held[:, first : first + readers, :n], change.flatten(2))
        clean = streams[what][0 if what == "logits" else layer]
        return (clean + part.reshape(*part.shape[:2], *clean.shape).transpose(0, 1)).flatten(1, 2)

    final = forward_by_reader(decoder, first, known.repeat(1, count, 1, 1), mask.repeat(count, 1), read)
    return einops.rearrange(final, "(c b) p d -> c b p d", c=count)


def summed(
    held: Bool[Tensor, "circuit reader writer"], change: Float[Tensor, "circuit more_writers n"]
) -> Float[Tensor, "circuit reader n"]:
    """For each reader, the sum over the writers it holds. Few of many are added row by row, many as a product."""
    circuits, readers, writers = held.shape
    if held.float().mean() > PRODUCT_FROM:
        return held.to(change.dtype) @ change[:, :writers]
    circuit, reader, writer = torch.nonzero(held, as_tuple=True)
    starts = torch.searchsorted(circuit * readers + reader, torch.arange(circuits * readers, device=held.device))
    found = F.embedding_bag(circuit * change.shape[1] + writer, change.flatten(0, 1), starts, mode="sum")
    return found.reshape(circuits, readers, -1)


def strongest(scores: Float[Tensor, "writer reader"], edges: Bool[Tensor, "writer reader"], count: int) -> Tensor:
    """The `count` edges with the largest |score|, as a mask."""
    size = scores.abs().masked_fill(~edges, -1).flatten()
    found = torch.zeros_like(size, dtype=torch.bool)
    found[size.topk(count).indices] = True
    return found.reshape(scores.shape)
