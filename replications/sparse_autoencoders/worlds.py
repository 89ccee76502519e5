"""Planted dictionaries: samples whose true sparse code is known.

    x = sum_i c_i g_i,   g_i unit vectors, c_i = exp(spread * normal) if feature i is active, otherwise 0

`equal` frequencies make the easy world. `log_uniform` ones make that of Korznikov et al. 2026 (arXiv 2602.14111), where
an SAE explains most variance and finds hardly any feature. Activity is drawn as a Poisson process, which costs time in
proportion to active entries only. It allows one feature to be active twice in a sample (with probability p^2 / 2).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.saes.architectures.base import Batch, random_rows
from common.saes.sparse import bags, starts
from replications.sparse_autoencoders.settings import World

LOWEST, HIGHEST = -5.5, -1.2  # exponents of the log-uniform frequencies
FRESH = 10**9  # steps that training never reaches


class Codes(NamedTuple):
    """Active entries sorted by sample."""

    rows: Int[Tensor, " entry"]
    features: Int[Tensor, " entry"]
    values: Float[Tensor, " entry"]


def directions(world: World, seed: int) -> Float[Tensor, "feature d"]:
    """The true dictionary of a seed."""
    return random_rows(world.features, world.d, torch.Generator().manual_seed(7_000_003 + seed))


def frequencies(world: World) -> Float[Tensor, " feature"]:
    """Mean activity of each feature, float64; the sum is `active`."""
    if world.frequencies == "equal":
        p = torch.ones(world.features, dtype=torch.float64)
    else:
        p = 10 ** torch.linspace(LOWEST, HIGHEST, world.features, dtype=torch.float64)
    return p / p.sum() * world.active


def codes(world: World, samples: int, seed: int, step: int) -> Codes:
    """The sparse codes of one batch: a function of seed and step."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    rows, features = drawn(frequencies(world), samples, generator)
    return Codes(rows, features, (world.spread * torch.randn(len(rows), generator=generator)).exp())


def drawn(
    activity: Float[Tensor, " feature"], samples: int, generator: torch.Generator
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]]:
    """Sample and feature of each active entry of independent features of this mean activity, sorted by sample."""
    cumulated = activity.cumsum(0)
    count = int(torch.poisson(cumulated[-1] * samples, generator=generator))
    each = torch.bincount(torch.randint(samples, (count,), generator=generator), minlength=samples)
    place = torch.rand(count, generator=generator, dtype=torch.float64) * cumulated[-1]
    return torch.repeat_interleave(each), torch.searchsorted(cumulated, place).clamp(max=len(activity) - 1)


def mix(table: Float[Tensor, "feature d"], code: Codes, samples: int) -> Float[Tensor, "sample d"]:
    """Samples from codes."""
    return bags(table, code.features, starts(code.rows, samples), code.values)


def scale(world: World) -> float:
    """The scalar that brings the expected squared norm of a sample to about 1 (directions nearly orthogonal)."""
    return float((world.active * torch.tensor(2 * world.spread**2).exp()) ** -0.5)


class Stream:
    """Batches of a world for `common.saes.trainer`: one slice per member, whose seeds may repeat."""

    def __init__(self, world: World, seeds: list[int], batch: int, device: str = "cpu") -> None:
        self.world, self.seeds, self.size, self.device = world, seeds, batch, device
        self.tables = {seed: directions(world, seed) for seed in seeds}

    def __call__(self, step: int, source: str) -> Batch:
        drawn = {seed: self.samples(seed, self.size, step) for seed in self.tables}
        x = torch.stack([drawn[seed] for seed in self.seeds]).to(self.device)
        return Batch(x, x)

    def samples(self, seed: int, count: int, step: int) -> Float[Tensor, "sample d"]:
        """Scaled samples of one seed."""
        return mix(self.tables[seed], codes(self.world, count, seed, step), count) * scale(self.world)
