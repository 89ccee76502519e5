"""Data sets of few to very many sparse points, and the exact loss on all points of a set, some at a time.

A point has few active features, but the loss needs all n of them: a full batch of T points is T n numbers. So points
are evaluated in chunks, whose losses and gradients add up to those of the full batch, and where there is more than one
chunk only active entries are kept. Memory then bounds the size of a chunk, and not T. A training step may take some
chunks only, others each time, so that time does not bound T either.
"""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from replications.superposition.model import Data, Evaluation, evaluate
from replications.superposition.streams import sparse_points


class Points(NamedTuple):
    """All points of every data set. Chunks: [dataset feature sample], sparse tensors if there are several of them."""

    chunks: list[Tensor]
    size: int

    def dense(self) -> Iterator[Data]:
        """The chunks, one after the other; all points of a data set together weigh 1."""
        for chunk in self.chunks:
            x = chunk.to_dense() if chunk.is_sparse else chunk
            yield Data(x, torch.full((x.shape[0], x.shape[2]), 1 / self.size, device=x.device))

    def turn(self, step: int, count: int) -> "Points":
        """What a step trains on: all points, or `count` chunks of them, the next ones at the next step."""
        if len(self.chunks) <= count:
            return self
        chunks = [self.chunks[(step * count + place) % len(self.chunks)] for place in range(count)]
        return Points(chunks, sum(chunk.shape[2] for chunk in chunks))


def draw_points(n_features: int, density: float, size: int, seeds: list[int], *, chunk: int, device: str) -> Points:
    """Sparse points of norm 1, one data set per seed; a point without any active feature is drawn again."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    chunks = []
    for first in range(0, size, chunk):
        count = min(chunk, size - first)
        x = torch.stack([_some_points(n_features, density, count, generator) for generator in generators])
        chunks.append((x if size <= chunk else x.to_sparse()).to(device))
    return Points(chunks, size)


def _some_points(
    n_features: int, density: float, size: int, generator: torch.Generator
) -> Float[Tensor, "feature sample"]:
    kept = torch.zeros(n_features, 0)
    while kept.shape[1] < size:
        drawn = sparse_points(density, n_features, size, generator)
        kept = torch.cat([kept, drawn[:, drawn.sum(0) > 0]], dim=1)
    points: Tensor = kept[:, :size] / kept[:, :size].norm(dim=0)
    return points


def evaluate_points(
    W: Float[Tensor, "instance hidden feature"],
    b: Float[Tensor, "instance feature"],
    points: Points,
    importance: Float[Tensor, "instance feature"],
) -> Evaluation:
    """Loss and gradient of ReLU models over all points. Instances as in `model`: (dataset, copy), dataset slowest."""
    return reduce(_add, (evaluate(W, b, data, importance, "relu") for data in points.dense()))


def _add(one: Evaluation, other: Evaluation) -> Evaluation:
    return Evaluation(one.loss + other.loss, one.grad_W + other.grad_W, one.grad_b + other.grad_b)


def hidden_vectors(
    W: Float[Tensor, "instance hidden feature"], points: Points
) -> Float[Tensor, "instance hidden sample"]:
    """h = W x of every point."""
    sets = points.chunks[0].shape[0]
    W = rearrange(W, "(dataset copy) hidden feature -> dataset copy hidden feature", dataset=sets)
    pattern = "dataset copy hidden feature, dataset feature sample -> dataset copy hidden sample"
    found = torch.cat([einsum(W, data.x, pattern) for data in points.dense()], dim=-1)
    return rearrange(found, "dataset copy hidden sample -> (dataset copy) hidden sample")
