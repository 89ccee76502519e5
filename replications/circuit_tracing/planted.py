"""A planted circuit, written by hand, whose edges are known: a model that recognises strings of tokens.

    layer 0: pairs x y      layer 1: triples x y z      layer 2: strings w x y z, each with an answer of its own

A pair reads its token and, through a head that attends to the position before, the previous token. A triple reads the
pair at its own position and the pair at the position before. A string reads the two triples. Every position holds a
token of each of several voices, which have words, strings and features of their own. So features of other voices stand
beside the parents of a feature, at the same places, and place does not tell which are read. Every planted edge between
features is known, and others are tempting. Features are transcoder-like (JumpReLU), write unit vectors in more
directions than the stream has dimensions, and there is no norm. Edges from embeddings are left out: what a position's
tokens add up to is one node.

Graphs are drawn with transcoders that are *trained* on what these MLPs read and write. A latent stands for the planted
feature of its layer with which it correlates most, at least `LEAST_CORRELATION`. Latents of one planted feature are one
node; the rest stay unnamed. Of as many strongest edges as are planted among what is active, the share that is planted
is precision and recall in one.
"""

from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.architectures.base import unit_rows
from common.saes.sae import About, Sae
from replications.circuit_tracing.frozen import FrozenPass
from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import normalised
from replications.circuit_tracing.settings import Planted

NAME = "planted"
GAIN = 4.0  # of the unembedding
LIMIT = 0.75  # a feature with both parents reads 1, with one 0.5, give or take what interferes
LEAST_CORRELATION = 0.5
LAYERS = 3
Key = tuple[int, int, int]
"""layer (3: answer), position, feature"""


class Circuit(NamedTuple):
    """The model of one seed."""

    strings: list[Int[Tensor, "_ _"]]
    """what the features of each layer recognise: pairs, triples, strings"""
    embedding: Float[Tensor, "token d_model"]
    moves: Float[Tensor, "layer d_model d_model"]
    """what the head of each layer makes of the position before, x -> x moves"""
    mlps: list[Sae]


def circuit(settings: Planted, seed: int) -> Circuit:
    """Random strings, all their pairs and triples, and the weights that recognise them."""
    draw = torch.Generator().manual_seed(seed)
    voices = []
    for voice in range(settings.voices):
        known = _distinct(torch.randint(settings.tokens, (8 * settings.strings, 4), generator=draw))
        chosen = torch.randperm(len(known), generator=draw)[: settings.strings]
        voices.append(known[chosen] + voice * settings.tokens)
    whole, tokens = torch.cat(voices), settings.voices * settings.tokens
    strings = [_distinct(torch.cat([whole[:, at : at + wide] for at in range(5 - wide)])) for wide in (2, 3)]
    strings.append(whole)
    d = settings.d_model
    embedding = unit_rows(torch.randn(tokens, d, generator=draw))
    moves = torch.stack([torch.linalg.qr(torch.randn(d, d, generator=draw)).Q for _ in range(LAYERS)])
    below, parts, mlps = torch.arange(tokens)[:, None], embedding, []
    for layer, own in enumerate(strings):
        now, before = (_places(own[:, cut], below) for cut in (slice(1, None), slice(None, -1)))
        readers = (parts[now] + parts[before] @ moves[layer]) / 2
        parts = unit_rows(torch.randn(len(own), d, generator=draw))
        about = About("planted", NAME, f"blocks.{layer}.hook_mlp_in", f"blocks.{layer}.hook_mlp_out")
        limit = torch.full((len(own),), LIMIT)
        nothing = torch.zeros(len(own))
        mlps.append(Sae(about, "jumprelu", readers.mT.contiguous(), nothing, parts, torch.zeros(d), threshold=limit,
                        centred=False))  # fmt: skip
        below = own
    return Circuit(strings, embedding, moves, mlps)


def _distinct(rows: Int[Tensor, "n wide"]) -> Int[Tensor, "m wide"]:
    """Every row once, in order."""
    return torch.tensor(sorted({tuple(row) for row in rows.tolist()}))


def _places(rows: Int[Tensor, "n wide"], table: Int[Tensor, "m wide"]) -> Int[Tensor, " n"]:
    """Where each row stands in a table."""
    return (rows[:, None] == table[None]).all(-1).int().argmax(1)


def sequences(
    made: Circuit, settings: Planted, count: int, seed: int
) -> tuple[Int[Tensor, "n voice pos"], Int[Tensor, " n"]]:
    """Random tokens of every voice that end in one of its strings, and the string of the voice that is asked, drawn at
    random. Position 0 is empty to the model."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.arange(settings.voices)[:, None]
    tokens = torch.randint(settings.tokens, (count, settings.voices, settings.length), generator=draw)
    tokens += first * settings.tokens
    which = torch.randint(settings.strings, (count, settings.voices), generator=draw) + first[:, 0] * settings.strings
    tokens[:, :, -4:] = made.strings[2][which]
    asked = torch.randint(settings.voices, (count, 1), generator=draw)
    return tokens, which.gather(1, asked)[:, 0]


class Run(NamedTuple):
    """What the planted model computes."""

    embeddings: Float[Tensor, "n pos d_model"]
    mlp_in: Float[Tensor, "layer n pos d_model"]
    mlp_out: Float[Tensor, "layer n pos d_model"]
    active: list[Float[Tensor, "n pos _"]]
    final: Float[Tensor, "n pos d_model"]


def run_circuit(made: Circuit, tokens: Int[Tensor, "n voice pos"]) -> Run:
    """A forward pass."""
    x = made.embedding[tokens].sum(1)
    x[:, 0] = 0
    start, read, wrote, active = x, [], [], []
    for layer, mlp in enumerate(made.mlps):
        moved = torch.zeros_like(x)
        moved[:, 1:] = x[:, :-1] @ made.moves[layer]
        x = x + moved
        read.append(x)
        active.append(mlp.encode(x))
        wrote.append(mlp.decode(active[-1]))
        x = x + wrote[-1]
    return Run(start, torch.stack(read), torch.stack(wrote), active, x)


def freeze_circuit(made: Circuit, run: Run, tokens: Int[Tensor, "n voice pos"], at: int) -> FrozenPass:
    """The frozen pass of one prompt, with the tokens of its first voice; nothing had to be frozen but the MLPs."""
    length, d = tokens.shape[2], made.embedding.shape[1]
    before = torch.diag(torch.ones(length - 1), -1)
    ones, zeros = torch.ones(LAYERS, d), torch.zeros(LAYERS, d)
    W_U = GAIN * made.mlps[2].W_dec.mT
    return FrozenPass(
        tokens=tokens[at, 0], embeddings=run.embeddings[at], patterns=before.expand(LAYERS, 1, -1, -1),
        W_V=made.moves[:, None], W_O=torch.eye(d).expand(LAYERS, 1, -1, -1), gain_attn=ones, gain_mlp=ones,
        gain_final=ones[0], scale_attn=torch.ones(LAYERS, length), scale_mlp=torch.ones(LAYERS, length),
        scale_final=torch.ones(length), bias_attn=zeros, bias_mlp=zeros, bias_final=zeros[0], mlp_in=run.mlp_in[:, at],
        mlp_out=run.mlp_out[:, at], W_U=W_U, logits=run.final[at, -1] @ W_U, centred=False,
    )  # fmt: skip


def planted_edges(made: Circuit, run: Run, at: int, answer: int) -> set[tuple[Key, Key]]:
    """(source, target) of all planted edges between what is active on a prompt."""
    active = {
        (layer, pos, feature)
        for layer, found in enumerate(run.active)
        for pos, feature in found[at].nonzero().tolist()
        if pos
    }
    found: set[tuple[Key, Key]] = set()
    below = torch.arange(len(made.embedding))[:, None]
    for layer, own in enumerate(made.strings):
        now, before = _places(own[:, 1:], below).tolist(), _places(own[:, :-1], below).tolist()
        for pos, feature in [key[1:] for key in active if key[0] == layer]:
            parents = [(layer - 1, pos, now[feature]), (layer - 1, pos - 1, before[feature])]
            found |= {(parent, (layer, pos, feature)) for parent in parents if parent in active}
        below = own
    end = run.final.shape[1] - 1
    last = (2, end, answer)
    return found | ({(last, (LAYERS, end, answer))} if last in active else set())


def matches(dictionary: list[Sae], run: Run) -> tuple[list[Int[Tensor, " _"]], list[Float[Tensor, "n pos _"]]]:
    """For each layer's latents the planted feature that they stand for, or -1; and their activations."""
    found, acts = [], []
    for sae, x, truth in zip(dictionary, run.mlp_in, run.active, strict=True):
        latents = sae.encode(x)
        r = correlations(latents[:, 1:].flatten(0, 1), truth[:, 1:].flatten(0, 1))
        best = r.max(1)
        found.append(torch.where(best.values >= LEAST_CORRELATION, best.indices, -1))
        acts.append(latents)
    return found, acts


def correlations(a: Float[Tensor, "n i"], b: Float[Tensor, "n j"]) -> Float[Tensor, "i j"]:
    """Pearson; 0 for a constant column."""
    a, b = (one - one.mean(0) for one in (a, b))
    norms = a.norm(dim=0)[:, None] * b.norm(dim=0)[None]
    return torch.where(norms > 0, einsum(a, b, "n i, n j -> i j") / norms.clamp(min=1e-9), 0.0)


def keys(graph: Graph, stands_for: list[Int[Tensor, " _"]], answer: int) -> list[Key | None]:
    """What each node of a graph is: a planted node, a latent of its own (numbers below -1), or None for errors and
    embeddings."""
    features, found = graph.features, []
    for layer, pos, latent in zip(
        features.layer.tolist(), features.pos.tolist(), features.latent.tolist(), strict=True
    ):
        planted = int(stands_for[layer][latent])
        found.append((layer, pos, planted if planted >= 0 else -2 - latent))
    others: list[None] = [None] * (graph.n_errors + graph.frozen.length)
    return [*found, *others, (LAYERS, graph.frozen.length - 1, answer)]


def strongest_edges(scores: Float[Tensor, "node node"], names: list[Key | None], count: int) -> list[tuple[Key, Key]]:
    """The edges with the highest score between nodes, those of one planted feature taken together."""
    known = {key: at for at, key in enumerate(dict.fromkeys(key for key in names if key is not None))}
    to = torch.tensor([known[key] if key is not None else len(known) for key in names])
    table = torch.zeros(len(known) + 1, len(names)).index_add_(0, to, scores)
    table = torch.zeros(len(known) + 1, len(known) + 1).index_add_(1, to, table)[:-1, :-1]
    listed = list(known)
    places = table.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [(listed[place % len(listed)], listed[place // len(listed)]) for place in places]


def recovered(scores: Float[Tensor, "node node"], names: list[Key | None], truth: set[tuple[Key, Key]]) -> float:
    """Share of planted edges among as many strongest ones."""
    return len(truth & set(strongest_edges(scores, names, len(truth)))) / max(1, len(truth))


def _above_and_behind(graph: Graph) -> tuple[Int[Tensor, "node node"], Int[Tensor, "node node"]]:
    """How many layers, and how many positions, each target is above and behind each source; an error is no source."""
    features, length = graph.features, graph.frozen.length
    errors = torch.full((graph.n_errors,), LAYERS)
    depth = torch.cat([features.layer, errors, torch.full((length,), -1), torch.tensor([LAYERS])])
    place = torch.cat([features.pos, 0 * errors, torch.arange(length), torch.tensor([length - 1])])
    return depth[:, None] - depth[None], place[:, None] - place[None]


def possible(graph: Graph) -> Bool[Tensor, "node node"]:
    """Where there could be an edge: from features and tokens to features of later layers and the answer."""
    above, behind = _above_and_behind(graph)
    return (above > 0) & (behind >= 0)


def edge_strength(graph: Graph) -> Float[Tensor, "node node"]:
    """Share of each target's inputs."""
    return normalised(graph.adjacency)


def shuffled_edges(graph: Graph, seed: int) -> Float[Tensor, "node node"]:
    """The same with the weights into each target permuted among the nodes that could reach it."""
    draw = torch.Generator().manual_seed(seed)
    found, where = normalised(graph.adjacency), possible(graph)
    for row, allowed in zip(found, where, strict=True):
        places = allowed.nonzero()[:, 0]
        row[places] = row[places[torch.randperm(len(places), generator=draw)]]
    return found


def write_sizes(graph: Graph) -> Float[Tensor, "node node"]:
    """How much each source writes, whatever the target."""
    sizes = torch.zeros(len(graph.adjacency))
    sizes[: graph.n_features] = graph.features.write_norm()
    return sizes * possible(graph)


def near(graph: Graph) -> Bool[Tensor, "node node"]:
    """Where a planted edge could be: one layer above, at the same position or the next."""
    above, behind = _above_and_behind(graph)
    return (above == 1) & (behind >= 0) & (behind <= 1)


def co_activation(
    graph: Graph, acts: list[Float[Tensor, "n pos _"]], answers: Int[Tensor, " n"], answer: int
) -> Float[Tensor, "node node"]:
    """|correlation| over prompts of every two nodes that an edge could join."""
    features = graph.features
    places = zip(features.layer.tolist(), features.pos.tolist(), features.latent.tolist(), strict=True)
    columns = [acts[layer][:, pos, latent] for layer, pos, latent in places]
    columns += [torch.zeros(len(answers))] * (graph.n_errors + graph.frozen.length)
    columns.append((answers == answer).float())
    every = torch.stack(columns, dim=1)
    return correlations(every, every).abs() * possible(graph)
