"""Planted trees: features of which some imply others, the world in which absorption can be seen.

Each of six parents is active with probability 0.3, independently. An active parent has, with probability 2/3, exactly
one of its three children active; a child is never active without its parent. So 24 orthonormal features, three of them
active in a sample on average, with coefficients exp(0.25 * normal).

An SAE can save a latent by *absorption*: the parent's latent stays silent where a child is active, and the child's
latent writes both. It looks like a detector of the parent with holes (Chanin et al. 2024, arXiv 2409.14507). This is
the kind of toy with which Bussmann et al. 2025 (arXiv 2503.17547) motivate Matryoshka SAEs; sizes are ours.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from common.saes.architectures.base import Batch

PARENTS, CHILDREN = 6, 3
ACTIVE, WITH_CHILD, SPREAD = 0.3, 2 / 3, 0.25
FEATURES = PARENTS * (1 + CHILDREN)
MEAN_L0 = PARENTS * ACTIVE * (1 + WITH_CHILD)
SCALE = (MEAN_L0 * float(torch.tensor(2 * SPREAD**2).exp())) ** -0.5  # brings the expected squared norm to 1


class Sample(NamedTuple):
    """Which features are active, and the scaled sum of them."""

    parent: Bool[Tensor, "sample parent"]
    child: Bool[Tensor, "sample parent child"]
    x: Float[Tensor, "sample d"]


def directions(seed: int) -> Float[Tensor, "feature d"]:
    """Orthonormal directions of a seed, parents first, then the children of each parent."""
    found: Tensor = torch.linalg.qr(
        torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(7_000_003 + seed))
    )[0]
    return found


def draw(count: int, table: Float[Tensor, "feature d"], seed: int, step: int) -> Sample:
    """Samples as a function of seed and step."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    parent = torch.rand(count, PARENTS, generator=generator) < ACTIVE
    some = parent & (torch.rand(count, PARENTS, generator=generator) < WITH_CHILD)
    which = torch.randint(CHILDREN, (count, PARENTS), generator=generator)
    child = (which[..., None] == torch.arange(CHILDREN)) & some[..., None]
    active = torch.cat([parent, rearrange(child, "sample parent child -> sample (parent child)")], 1)
    values = (SPREAD * torch.randn(count, FEATURES, generator=generator)).exp() * active
    return Sample(parent, child, values @ table * SCALE)


class TreeStream:
    """Batches of all seeds, one slice per seed, for `common.saes.trainer`."""

    def __init__(self, seeds: list[int], batch: int, device: str = "cpu") -> None:
        self.seeds, self.size, self.device = seeds, batch, device
        self.tables = [directions(seed) for seed in seeds]

    def __call__(self, step: int, source: str) -> Batch:
        parts = [draw(self.size, *one, step).x for one in zip(self.tables, self.seeds, strict=True)]
        x = torch.stack(parts).to(self.device)
        return Batch(x, x)
