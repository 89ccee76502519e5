"""Endless data for models too large for one fixed sample: every step draws its own batch of every data set.

Law as in `model.sample`: x_i = 0 with probability 1 - s, else uniform on [0, 1]. Two savings against dense
uniform sampling, both exact. A batch holds only points with some active feature, and the all-zero point, most of the
stream when features are sparse, is one row that carries its probability. And below the density `SPARSE` random numbers
are drawn for active entries only: hits fall on the entries as a Poisson process of rate -log(1 - s) per entry, and an
entry with at least one hit, which has probability s, is active.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from common.network_settings import Optimisation
from common.training import Job, Weights
from replications.superposition.model import Activation, Data, evaluate, stack
from replications.superposition.training import initial

SPARSE = 0.15  # above it one uniform an entry costs less than placing hits
START = 3 * 10**9  # keeps the seeds of weights apart from those of batches


def batch(densities: Float[Tensor, " dataset"], n_features: int, size: int, seed: int, step: int) -> Data:
    """The batch of one step for all data sets of one seed: float32 on the CPU, `size` points and the zero point."""
    generator = torch.Generator().manual_seed(seed * 10_000_000 + step)
    some = 1.0 - (1.0 - densities.double()) ** n_features
    u = torch.rand(len(densities), size, generator=generator, dtype=torch.float64)
    ratio = torch.log1p(-u * some[:, None]) / torch.log1p(-densities.double())[:, None]  # 0 where the density is 1
    first = ratio.floor().long().clamp(max=n_features - 1)
    later = active_values(densities, n_features, size, generator)
    place = rearrange(torch.arange(n_features), "feature -> feature 1")
    later.mul_(place > rearrange(first, "dataset sample -> dataset 1 sample"))
    value = 1.0 - torch.rand(len(densities), size, generator=generator)
    later.scatter_(1, first[:, None], value[:, None])
    x = torch.cat([torch.zeros(len(densities), n_features, 1), later], dim=2)
    weight = torch.cat([1.0 - some[:, None], (some / size)[:, None].expand(-1, size)], dim=1)
    return Data(x, weight.float())


def active_values(
    densities: Float[Tensor, " dataset"], n_features: int, size: int, generator: torch.Generator
) -> Float[Tensor, "dataset feature sample"]:
    """Independent entries: 0, or uniform on (0, 1] with the probability of their data set."""
    entries = n_features * size
    field = torch.zeros(len(densities), entries)
    sparse: Bool[Tensor, " dataset"] = densities < SPARSE
    hits = torch.poisson(-torch.log1p(-densities[sparse].double()) * entries, generator=generator).long()
    owner = torch.repeat_interleave(sparse.nonzero()[:, 0] * entries, hits)
    at = owner + torch.randint(entries, owner.shape, generator=generator)
    field.view(-1)[at] = 1.0 - torch.rand(owner.shape, generator=generator)
    dense = densities[~sparse, None].float()
    u = torch.rand(len(dense), entries, generator=generator)
    field[~sparse] = torch.where(u < dense, u / dense, 0.0)
    return rearrange(field, "dataset (feature sample) -> dataset feature sample", feature=n_features)


class WrittenLoss(torch.autograd.Function):
    """`model.evaluate` for optimisers that ask autograd: hands over the written gradient and builds no graph."""

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, b: Tensor, data: Data, importance: Tensor, activation: Activation
    ) -> Float[Tensor, " instance"]:
        """Loss of every instance."""
        found = evaluate(W, b, data, importance, activation)
        ctx.save_for_backward(found.grad_W, found.grad_b)
        return found.loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Gradients of W and b."""
        grad_W, grad_b = ctx.saved_tensors
        return scale[:, None, None] * grad_W, scale[:, None] * grad_b, None, None, None


def written_loss(
    weights: Weights, data: Data, importance: Float[Tensor, "instance feature"], activation: Activation
) -> Float[Tensor, " instance"]:
    """Loss of `weights["W"]` and `weights["b"]`, with the written gradient."""
    apply = cast(Callable[..., Tensor], WrittenLoss.apply)
    return apply(weights["W"], weights["b"], data, importance, activation)


def stream_job(
    name: str,
    densities: list[float],
    importance: Float[Tensor, " feature"],
    n_hidden: int,
    activation: Activation,
    *,
    optimisation: Optimisation,
    seeds: list[int],
    device: str,
    snapshots_at: list[int],
) -> Job:
    """A job of `common.training` for every seed and density: instance = (seed, density), seed slowest."""
    n_features, size = len(importance), optimisation.batch
    if n_features <= n_hidden:
        raise UserError(f"{n_features} features fit into {n_hidden} hidden units: give n_features more than n_hidden")
    at = torch.tensor(densities, dtype=torch.float64)
    starts = [
        initial(len(densities), n_hidden, n_features, torch.Generator().manual_seed(START + seed)) for seed in seeds
    ]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    scale = importance.float().expand(len(W), -1).to(device)

    def loss(weights: Weights, step: int) -> Float[Tensor, " instance"]:
        drawn = stack([batch(at, n_features, size, seed, step) for seed in seeds])
        data = Data(drawn.x.to(device), drawn.weight.to(device))
        return written_loss(weights, data, scale, activation)

    rates = torch.ones(len(W), device=device)
    return Job(name, {"W": W, "b": b}, loss, _nothing, [], snapshots_at, rates, size)


def _nothing(weights: Weights) -> Weights:
    return {}
