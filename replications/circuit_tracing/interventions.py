"""What ablating features does to a two-hop model, beside what its attribution graphs say.

Ameisen et al. 2025, "Validating the replacement model". A feature's influence on another one stands against the change
of the other's activation when the first is ablated in the model itself. Influence is a share of a target's inputs, so
predictions and changes are compared target by target (Spearman over the features before it). The result is averaged
over targets and prompts. Targets are the features of later layers and the answer's logit (less the mean logit).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from common.saes.sae import Sae
from common.toys.settings import Architecture
from common.toys.transformer import Weights
from replications.circuit_tracing.graph import Features, Graph
from replications.circuit_tracing.influence import all_influences, node_influence
from replications.circuit_tracing.toy import Reading, read

LEAST_SOURCES = 5
Scores = Float[np.ndarray, "target feature"]


class Subject(NamedTuple):
    """One model on one prompt."""

    weights: Weights
    shape: Architecture
    tokens: Int[Tensor, " pos"]
    reading: Reading
    place: int
    """of the prompt in the reading"""
    answer: int


def written(features: Features, chosen: Int[Tensor, " some"], like: Float[Tensor, "layer pos d_model"]) -> Tensor:
    """What chosen features write together, [layer pos d_model]."""
    total = torch.zeros_like(like)
    for layer, (which, rows) in enumerate(features.writers):
        own = torch.isin(which, chosen)
        at = which[own]
        total[layer].index_add_(0, features.pos[at], rows[own] * features.activation[at, None])
    return total


def margin(reading: Reading, answer: int) -> Float[Tensor, " batch"]:
    """The logit of the answer less the mean logit."""
    last = reading.logits[:, -1]
    return last[:, answer] - last.mean(1)


def edited(subject: Subject, added: Float[Tensor, "layer batch pos d_model"], *, frozen: bool) -> Reading:
    """The model on its prompt with vectors added to the MLP outputs, attention frozen or free."""
    count = added.shape[1]
    patterns = subject.reading.patterns[:, subject.place].unsqueeze(1).expand(-1, count, -1, -1, -1)
    tokens = subject.tokens.expand(count, -1)
    return read(subject.weights, tokens, subject.shape, added=added, patterns=patterns if frozen else None)


def changes(subject: Subject, graph: Graph, dictionary: list[Sae], *, frozen: bool) -> Scores:
    """|change| of every feature, and last of the answer's margin, when each feature is ablated by itself."""
    features = graph.features
    like = graph.frozen.mlp_out
    added = torch.zeros(len(like), len(features), *like.shape[1:])
    for layer, (which, rows) in enumerate(features.writers):
        added[layer, which, features.pos[which]] = -rows * features.activation[which, None]
    found = edited(subject, added, frozen=frozen)
    rows = torch.zeros(len(features) + 1, len(features))
    for layer, sae in enumerate(dictionary):
        for pos in sorted(set(features.pos.tolist())):
            here = ((features.layer == layer) & (features.pos == pos)).nonzero()[:, 0]
            now = sae.encode(found.mlp_in[layer, :, pos])[:, features.latent[here]]
            rows[here] = (now - features.activation[here]).abs().mT
    clean = margin(subject.reading, subject.answer)[subject.place]
    rows[-1] = (margin(found, subject.answer) - clean).abs()
    return rows.numpy()


def predictions(graph: Graph) -> Scores:
    """Influence of every feature on every feature, and on the logits."""
    count = graph.n_features
    among = all_influences(graph.adjacency)[:count, :count]
    on_logits = node_influence(graph.adjacency, graph.logit_weights())[:count]
    return torch.cat([among, on_logits[None]]).numpy()


def shuffled(graph: Graph, seed: int) -> Float[Tensor, "node node"]:
    """The adjacency with the weights into each node permuted among the features of one layer and position."""
    draw = torch.Generator().manual_seed(seed)
    features, found = graph.features, graph.adjacency.clone()
    for layer, pos in {(int(a), int(b)) for a, b in zip(features.layer, features.pos, strict=True)}:
        here = ((features.layer == layer) & (features.pos == pos)).nonzero()[:, 0]
        order = torch.rand(len(found), len(here), generator=draw).argsort(1)
        found[:, here] = graph.adjacency[:, here].gather(1, order)
    return found


def agreement(features: Features, predicted: Scores, measured: Scores) -> float:
    """Mean over targets of the Spearman correlation over the features before each. 0 where nothing changes."""
    layer = np.append(features.layer.numpy(), 1_000_000)
    pos = np.append(features.pos.numpy(), 1_000_000)
    found = []
    for at, where in {(int(a), int(b)) for a, b in zip(layer, pos, strict=True)}:
        targets = (layer == at) & (pos == where)
        sources = (layer[:-1] < at) & (pos[:-1] <= where)
        if sources.sum() >= LEAST_SOURCES:
            found += spearman(predicted[targets][:, sources], measured[targets][:, sources])
    return float(np.mean(found)) if found else 0.0


def spearman(a: Float[np.ndarray, "row n"], b: Float[np.ndarray, "row n"]) -> list[float]:
    """Rank correlation of each row, 0 where a row is constant."""
    ranks = [rankdata(one, axis=1) for one in (a, b)]
    centred = [one - one.mean(1, keepdims=True) for one in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    both = (centred[0] * centred[1]).sum(1)
    return [float(x) for x in np.divide(both, spread, out=np.zeros_like(both), where=spread > 0)]


def fall(subject: Subject, graph: Graph, chosen: Int[Tensor, " some"]) -> float:
    """How far the answer's margin falls when chosen features are ablated together, attention free."""
    added = -written(graph.features, chosen, graph.frozen.mlp_out)[:, None]
    clean = margin(subject.reading, subject.answer)[subject.place]
    return float(clean - margin(edited(subject, added, frozen=False), subject.answer)[0])


def first_order(subject: Subject, graph: Graph) -> Float[Tensor, " feature"]:
    """How far the answer's margin falls without each feature, to first order: one backward pass through the model
    itself, no graph."""
    features, like = graph.features, graph.frozen.mlp_out
    with torch.enable_grad():
        added = torch.zeros_like(like)[:, None].requires_grad_()
        gradient = torch.autograd.grad(margin(edited(subject, added, frozen=False), subject.answer)[0], added)[0][:, 0]
    found = torch.zeros(len(features))
    for layer, (which, rows) in enumerate(features.writers):
        found[which] += (rows * gradient[layer, features.pos[which]]).sum(1)
    return found * features.activation


def reaching(graph: Graph) -> Bool[Tensor, " feature"]:
    """Features that can change the answer: all but those of the last layer at earlier positions."""
    features, frozen = graph.features, graph.frozen
    return (features.layer < frozen.n_layers - 1) | (features.pos == frozen.length - 1)


def matched(graph: Graph, chosen: Int[Tensor, " some"]) -> Int[Tensor, " others"]:
    """For each chosen feature another one that writes about as much and can change the answer, no two the same.

    It is one of its layer and position. Where none is left there it is one of its position, else any.
    """
    features = graph.features
    norms, free, found = features.write_norm(), reaching(graph), []
    free[chosen] = False
    for at in chosen.tolist():
        here = features.pos == features.pos[at]
        for allowed in (here & (features.layer == features.layer[at]), here, torch.ones_like(here)):
            pool = (free & allowed).nonzero()[:, 0]
            if len(pool):
                found.append(int(pool[(norms[pool] - norms[at]).abs().argmin()]))
                free[found[-1]] = False
                break
    return torch.tensor(found, dtype=torch.long)
