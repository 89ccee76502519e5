"""Endless data for models too large for one fixed sample: every step draws its own batch of every data set.

Law as in `model.sample`: x_i = 0 with probability 1 - s, else uniform on [0, 1]. Two savings against dense uniform
sampling, both exact. A batch holds only points with some active feature. The all-zero point, most of the stream when
features are sparse, is one row that carries its probability. And below the density `SPARSE` random numbers are drawn
for active entries only. Hits fall on the entries as a Poisson process of rate -log(1 - s) per entry. An entry with at
least one hit, which has probability s, is active.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.toys.settings import Optimisation
from common.toys.training import Job, Weights
from replications.superposition.model import Data, evaluate, stack
from replications.superposition.training import initial

SPARSE = 0.15  # above it one uniform an entry costs less than placing hits
START = 3 * 10**9  # keeps the seeds of weights apart from those of batches


def batch(
    densities: Float[Tensor, " dataset"],
    n_features: int,
    size: int,
    seed: int,
    step: int,
    *,
    signed: bool = False,
    device: str = "cpu",
) -> Data:
    """The batch of one step for all data sets of one seed: float32, `size` points and the zero point.

    With `signed`, active values are uniform on [-1, 1]. Numbers are drawn on the device; another device draws others.
    """
    generator = torch.Generator(device).manual_seed(seed * 10_000_000 + step)
    densities = densities.to(device, torch.float64)
    some = 1.0 - (1.0 - densities) ** n_features
    x = torch.zeros(len(densities), n_features, 1 + size, device=device)  # the first point is the zero point
    if x.is_cuda:
        x[:, :, 1:] = unwaited_points(densities, n_features, size, generator, signed)
    else:
        sparse: Bool[Tensor, " dataset"] = densities < SPARSE
        place, value = _sparse_points(densities[sparse], n_features, size, generator, signed)
        owner = sparse.nonzero()[place[0], 0]
        x[owner, place[1], 1 + place[2]] = value
        x[~sparse, :, 1:] = _dense_points(densities[~sparse], n_features, size, generator, signed)
    weight = torch.cat([1.0 - some[:, None], (some / size)[:, None].expand(-1, size)], dim=1)
    return Data(x, weight.float())


def _values(generator: torch.Generator, count: int, signed: bool) -> Float[Tensor, " count"]:
    value = 1.0 - torch.rand(count, generator=generator, device=generator.device)  # not 0
    return 2.0 * value - 1.0 if signed else value


def _sparse_points(
    densities: Float[Tensor, " dataset"], n_features: int, size: int, generator: torch.Generator, signed: bool
) -> tuple[Int[Tensor, "axis entry"], Float[Tensor, " entry"]]:
    """Active entries, as (dataset, feature, sample) and value, of points with some active feature.

    The first active feature of each point is drawn from a truncated geometric law. The features after it are hit as
    independent features are, and hits on those before it are struck out.
    """
    count, device = len(densities), generator.device
    first = _first(densities, n_features, size, generator)
    later = _hits(densities, n_features, size, generator)
    later = later[:, later[1] > first[later[0], later[2]]]
    dataset, point = torch.cartesian_prod(torch.arange(count, device=device), torch.arange(size, device=device)).T
    place = torch.cat([later, torch.stack([dataset, first.flatten(), point])], dim=1)
    return place, _values(generator, place.shape[1], signed)


def _first(
    densities: Float[Tensor, " dataset"], n_features: int, size: int, generator: torch.Generator
) -> Int[Tensor, "dataset sample"]:
    """The first active feature of points with some active feature: a truncated geometric law."""
    some = 1.0 - (1.0 - densities) ** n_features
    u = torch.rand(len(densities), size, generator=generator, dtype=torch.float64, device=generator.device)
    first = (torch.log1p(-u * some[:, None]) / torch.log1p(-densities)[:, None]).floor().long()
    return first.clamp(max=n_features - 1)


def unwaited_points(
    densities: Float[Tensor, " dataset"], n_features: int, size: int, generator: torch.Generator, signed: bool
) -> Float[Tensor, "dataset feature sample"]:
    """Points with some active feature, by one draw for each entry and no question to the device. Where others share a
    GPU, each answer is waited for. The first active feature is drawn as for sparse points. Of densities down to 1e-4:
    below, float32 makes later features rarer than they are."""
    first = _first(densities, n_features, size, generator)[:, None]
    s, place = densities.float()[:, None, None], torch.arange(n_features, device=generator.device)[:, None]
    u = 1.0 - torch.rand(len(densities), n_features, size, generator=generator, device=generator.device)  # not 0
    value = torch.where(place == first, u, u / s)
    active = (place == first) | ((place > first) & (u <= s))
    return torch.where(active, 2.0 * value - 1.0 if signed else value, 0.0)


def _hits(
    densities: Float[Tensor, " dataset"], n_features: int, size: int, generator: torch.Generator
) -> Int[Tensor, "axis entry"]:
    """Entries, as (dataset, feature, sample), each hit with the probability of its data set; some more than once."""
    entries = n_features * size
    hits = torch.poisson(-torch.log1p(-densities) * entries, generator=generator).long()
    owner = torch.repeat_interleave(torch.arange(len(densities), device=hits.device), hits)
    at = torch.randint(entries, owner.shape, generator=generator, device=hits.device)
    return torch.stack([owner, at // size, at % size])


def _dense_points(
    densities: Float[Tensor, " dataset"], n_features: int, size: int, generator: torch.Generator, signed: bool
) -> Float[Tensor, "dataset feature sample"]:
    """Points of independent features; those without an active feature, which are few, are drawn again."""
    s = densities.float()[:, None, None]
    u = torch.rand(len(densities), n_features, size, generator=generator, device=s.device)
    while len(empty := (u.amin(1) >= s[:, 0]).nonzero()):
        u[empty[:, 0], :, empty[:, 1]] = torch.rand(len(empty), n_features, generator=generator, device=s.device)
    value = u * (2.0 / s) - 1.0 if signed else u / s
    return value.masked_fill_(u >= s, 0.0)


def sparse_points(
    density: float, n_features: int, size: int, generator: torch.Generator
) -> Float[Tensor, "feature sample"]:
    """Points of independent features, those without an active feature among them."""
    at = torch.tensor([density], dtype=torch.float64)
    place = _hits(at, n_features, size, generator)
    x = torch.zeros(n_features, size)
    x[place[1], place[2]] = _values(generator, place.shape[1], signed=False)
    return x


class WrittenLoss(torch.autograd.Function):
    """A loss whose gradient was written out, for optimisers that ask autograd: no graph is built."""

    @staticmethod
    def forward(ctx: Any, loss: Float[Tensor, " instance"], *both: Tensor) -> Float[Tensor, " instance"]:
        """The loss of every instance. `both`: the weights, then the gradient of each."""
        ctx.save_for_backward(*both[len(both) // 2 :])
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights."""
        gradients = ctx.saved_tensors
        scaled = [scale.reshape(-1, *[1] * (one.dim() - 1)) * one for one in gradients]
        return None, *scaled, *[None] * len(gradients)


def with_gradient(loss: Float[Tensor, " instance"], weights: Weights, gradients: Weights) -> Float[Tensor, " instance"]:
    """`loss`, tied to `weights` by the gradient given for each of them."""
    apply = cast(Callable[..., Tensor], WrittenLoss.apply)
    return apply(loss, *weights.values(), *(gradients[name] for name in weights))


def written_loss(
    weights: Weights, data: Data, importance: Float[Tensor, "instance feature"]
) -> Float[Tensor, " instance"]:
    """Loss of a ReLU model `weights["W"]`, `weights["b"]`, with the written gradient."""
    with torch.no_grad():
        found = evaluate(weights["W"], weights["b"], data, importance, "relu")
    return with_gradient(found.loss, weights, {"W": found.grad_W, "b": found.grad_b})


def stream_job(
    densities: list[float],
    importance: Float[Tensor, " feature"],
    n_hidden: int,
    *,
    optimisation: Optimisation,
    seeds: list[int],
    device: str,
    snapshots_at: list[int],
) -> Job:
    """A job of `common.toys.training` for every seed and density: instance = (seed, density), seed slowest."""
    n_features, size = len(importance), optimisation.batch
    at = torch.tensor(densities, dtype=torch.float64)
    starts = [
        initial(len(densities), n_hidden, n_features, torch.Generator().manual_seed(START + seed)) for seed in seeds
    ]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    scale = importance.float().expand(len(W), -1).to(device)

    def loss(weights: Weights, step: int) -> Float[Tensor, " instance"]:
        data = stack([batch(at, n_features, size, seed, step, device=device) for seed in seeds])
        return written_loss(weights, data, scale)

    rates = torch.ones(len(W), device=device)
    return Job("uniform features", {"W": W, "b": b}, loss, _nothing, [], snapshots_at, rates, size)


def _nothing(weights: Weights) -> Weights:
    return {}
