"""Indirect influence, pruning and the two scores of an attribution graph, as in circuit-tracer.

Rows of |A| are scaled to sum 1 (inputs of a target). Influence on the logits is w (A + A^2 + ...), w being the logits'
probabilities (Ameisen et al. 2025, "Pruning"). Nodes are kept up to 80 % of the cumulative influence, edges up to 98 %.
Tokens and logits always stay. Nodes that lose all outgoing or, for features, all incoming edges go.

    completeness = sum_t (share of t's input that is no error) (influence of t + w_t) / sum_t (influence of t + w_t)
    replacement  = influence of embeddings / influence of embeddings and errors

Differences to circuit-tracer: the series ends after as many terms as there are nodes at most (the graph has no cycle).
Completeness leaves out nodes that have no inputs by nature, embeddings and errors, which would count as complete.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NODE_SHARE, EDGE_SHARE = 0.8, 0.98
TINY = 1e-10

Matrix = Float[Tensor, "node node"]
Weights = Float[Tensor, " node"]


class Layout(NamedTuple):
    """Where the kinds of nodes begin."""

    errors: int
    embeddings: int
    logits: int


def normalised(adjacency: Matrix) -> Matrix:
    """|A| with rows of sum 1, or 0 where nothing comes in."""
    size = adjacency.abs()
    total: Tensor = size.sum(1, keepdim=True)
    found: Tensor = size / total.clamp(min=TINY)
    return found


class Inputs(NamedTuple):
    """The nodes that have inputs, and the shares of these: of a large graph, a small part of the matrix."""

    nodes: Int[Tensor, " target"]
    shares: Float[Tensor, "target node"]

    @classmethod
    def of(cls, adjacency: Matrix) -> "Inputs":
        """Of a whole matrix."""
        nodes = (torch.linalg.vector_norm(adjacency, ord=1, dim=1) > 0).nonzero()[:, 0]
        return cls.of_rows(nodes, adjacency[nodes])

    @classmethod
    def of_rows(cls, nodes: Int[Tensor, " target"], rows: Float[Tensor, "target node"]) -> "Inputs":
        """Of the rows of some nodes."""
        size = rows.abs()
        return cls(nodes, size / size.sum(1, keepdim=True).clamp(min=TINY))

    def influence(self, weights: Weights) -> Weights:
        """weights (M + M^2 + ...), as `influence` of the whole matrix."""
        now = weights[self.nodes] @ self.shares
        total = torch.zeros_like(now)
        for _ in range(len(now)):
            if not bool(now.any()):
                break
            total = total + now
            now = now[self.nodes] @ self.shares
        return total


def influence(matrix: Matrix, weights: Float[Tensor, "*n node"]) -> Float[Tensor, "*n node"]:
    """weights (M + M^2 + ...) for the matrix of an acyclic graph."""
    now = weights @ matrix
    total = torch.zeros_like(now)
    for _ in range(len(matrix)):
        if not bool(now.any()):
            break
        total = total + now
        now = now @ matrix
    return total


def node_influence(adjacency: Matrix, weights: Weights) -> Weights:
    """Influence of each node on the weighted logits."""
    return Inputs.of(adjacency).influence(weights)


def all_influences(adjacency: Matrix) -> Matrix:
    """B = (I - |A|)^-1 - I = |A| + |A|^2 + ...: the influence of column s on row t, along all paths."""
    return influence(normalised(adjacency), torch.eye(len(adjacency)))


def threshold(scores: Float[Tensor, " n"], share: float) -> float:
    """The smallest score that is kept, when the largest are kept up to a share of the sum."""
    ordered = scores.sort(descending=True).values
    cumulative = ordered.cumsum(0) / ordered.sum().clamp(min=TINY)
    at = int(torch.searchsorted(cumulative, share))
    return float(ordered[min(at, len(ordered) - 1)])


class Pruned(NamedTuple):
    """What is kept, and each node's place in the order: the cumulative share of influence down to it."""

    nodes: Bool[Tensor, " node"]
    edges: Bool[Tensor, "node node"]
    cumulative: Float[Tensor, " node"]


def prune(
    adjacency: Matrix, weights: Weights, at: Layout, *, nodes: float = NODE_SHARE, edges: float = EDGE_SHARE
) -> Pruned:
    """Keeps the nodes, then the edges, that carry these shares of the influence."""
    own = node_influence(adjacency, weights)
    kept = own >= threshold(own, nodes)
    kept[at.embeddings :] = True
    left = adjacency * kept[:, None] * kept[None, :]
    scores = edge_scores(left, weights)
    some = scores > 0
    links = some & (scores >= threshold(scores[some], edges)) if bool(some.any()) else some
    while True:
        before = kept.clone()
        kept[: at.embeddings] &= links[:, : at.embeddings].any(0)
        kept[: at.errors] &= links[: at.errors].any(1)
        links &= kept[:, None] & kept[None, :]
        if bool((before == kept).all()):
            break
    order = own.argsort(descending=True, stable=True)
    cumulative = torch.empty_like(own)
    cumulative[order] = own[order].cumsum(0) / own.sum().clamp(min=TINY)
    return Pruned(kept, links, cumulative)


def edge_scores(adjacency: Matrix, weights: Weights) -> Matrix:
    """Normalised weight times what depends on the target."""
    matrix = normalised(adjacency)
    return matrix * (influence(matrix, weights) + weights)[:, None]


class Scores(NamedTuple):
    """How much of the graph is explained by features."""

    completeness: float
    replacement: float


def scores(adjacency: Matrix, weights: Weights, at: Layout) -> Scores:
    """Completeness and replacement score."""
    inputs = Inputs.of(adjacency)
    own = inputs.influence(weights)
    asked = (own + weights)[inputs.nodes]
    explained = 1 - inputs.shares[:, at.errors : at.embeddings].sum(1)
    tokens, errors = own[at.embeddings : at.logits].sum(), own[at.errors : at.embeddings].sum()
    complete = (explained * asked).sum() / asked.sum().clamp(min=TINY)
    return Scores(float(complete), float(tokens / (tokens + errors).clamp(min=TINY)))


def completeness_of(adjacency: Matrix, weights: Weights, at: Layout, kept: Bool[Tensor, " node"]) -> float:
    """Completeness of the graph in which features that are not `kept` count as errors. Their edges stay, they have no
    inputs, and their share of an input is unexplained."""
    matrix = normalised(adjacency) * kept[:, None]
    own = influence(matrix, weights)
    asked = (own + weights) * (matrix.sum(1) > 0)
    known = kept.clone()
    known[at.errors : at.embeddings] = False
    return float(((matrix @ known.float()) * asked).sum() / asked.sum().clamp(min=TINY))


def nodes_needed(
    adjacency: Matrix, weights: Weights, at: Layout, order: Float[Tensor, " feature"], least: float
) -> int:
    """How many features, those of the highest `order` first, give a completeness of `least`; all of them if none do."""
    ranked = order.argsort(descending=True, stable=True)

    def reached(count: int) -> bool:
        kept = torch.ones(len(adjacency), dtype=torch.bool)
        kept[ranked[count:]] = False
        return completeness_of(adjacency, weights, at, kept) >= least

    low, high = 0, len(ranked)  # more features, more completeness: halve
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return low
