"""SynthSAEBench's world (Chanin et al. 2026, arXiv 2602.14687): a forest of features in superposition, scaled down.

Features are ranked by probability, p = 5e-4 + (0.4 - 5e-4) (r^-1/2 - n^-1/2) / (1 - n^-1/2). The first are roots.
Breadth first, every node above depth 3 has four children. At most one of them is active, and only with its parent. The
features left over are independent. Directions start random and are pushed apart by 100 Adam steps on their squared
cosines. Magnitudes are normal: means from 5 to 4 by rank, spreads |N(0.5, 0.5)|; a child's is multiplied by its
parent's over the mean of that. A constant vector of norm 0.5 is added.

Deviations, beside the size. Roots alone are correlated (Gaussian copula of rank 25, scale 0.1), not all features. One
child is drawn exactly, where theirs are drawn apart and all but one put out. A parent has a child in at most three
quarters of its samples (`SHARE`). In the published world most parents never occur without one, and absorption has no
denominator. The number of roots is no end of a Matryoshka prefix; in the published world both are 128.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.architectures.base import Batch, random_rows, unit_rows
from replications.sparse_autoencoders.settings import Forest
from replications.sparse_autoencoders.worlds import Codes, drawn, mix

MOST, LEAST, EXPONENT = 0.4, 5e-4, 0.5
BRANCHES, DEPTH, SHARE = 4, 3, 0.75
MEANS, SPREAD, BIAS = (5.0, 4.0), 0.5, 0.5
RANK, CORRELATION = 25, 0.1
APART_STEPS, APART_RATE = 100, 3e-4
NODES = sum(BRANCHES**level for level in range(DEPTH + 1))  # of a tree


class World(NamedTuple):
    """One draw of the world; features from `roots * NODES` on are independent."""

    directions: Float[Tensor, "feature d"]
    bias: Float[Tensor, " d"]
    means: Float[Tensor, " feature"]
    spreads: Float[Tensor, " feature"]
    factors: Float[Tensor, "root rank"]
    level: Float[Tensor, " root"]
    """a root is active where its normal variable is above"""
    chances: Float[Tensor, "parent branch"]
    """cumulated, of the children of each parent, which are roots + 4 parent, ..., roots + 4 parent + 3"""
    single: Float[Tensor, " single"]
    """probabilities of the independent features"""
    scale: float
    """brings the mean squared norm to 1"""


def probabilities(features: int) -> Float[Tensor, " feature"]:
    """By rank, float64."""
    power = torch.arange(1, features + 1, dtype=torch.float64) ** -EXPONENT
    return LEAST + (MOST - LEAST) * (power - power[-1]) / (1 - power[-1])


def grow(forest: Forest, seed: int) -> World:
    """The world of a seed."""
    generator = torch.Generator().manual_seed(8_000_009 + seed)
    n, roots, p = forest.features, forest.roots, probabilities(forest.features)
    parents = roots * (NODES - BRANCHES**DEPTH)
    given = p[roots : roots + BRANCHES * parents].reshape(parents, BRANCHES) / p[:parents, None]
    given = given * (SHARE / given.sum(1, keepdim=True)).clamp(max=1)
    factors = CORRELATION * torch.randn(roots, RANK, generator=generator)
    world = World(
        apart(random_rows(n, forest.d, generator)),
        BIAS * random_rows(1, forest.d, generator)[0],
        torch.linspace(*MEANS, n),
        (SPREAD + SPREAD * torch.randn(n, generator=generator)).abs(),
        factors,
        -torch.special.ndtri(p[:roots]).float(),
        given.cumsum(1).float(),
        p[roots * NODES :],
        1.0,
    )
    x = mix(world.directions, codes(world, 4096, seed, 0), 4096) + world.bias
    return world._replace(scale=float(x.square().sum(1).mean()) ** -0.5)


def apart(rows: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Unit rows after Adam on their squared cosines and on their norms."""
    rows = rows.clone().requires_grad_()
    optimiser = torch.optim.Adam([rows], lr=APART_RATE)
    for _ in range(APART_STEPS):
        gram = rows @ rows.mT
        norms = gram.diagonal()
        loss = gram.square().sum() - norms.square().sum() + len(rows) * (norms - 1).square().sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return unit_rows(rows.detach())


def codes(world: World, samples: int, seed: int, step: int) -> Codes:
    """The sparse codes of one batch, a function of seed and step: roots, children level by level, then the rest."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    roots = len(world.level)
    common = torch.randn(samples, RANK, generator=generator) @ world.factors.mT
    own = (1 - world.factors.square().sum(1)).sqrt() * torch.randn(samples, roots, generator=generator)
    rows, features = (common + own > world.level).nonzero().unbind(1)
    scale = torch.ones(len(rows))
    found = []
    for depth in range(DEPTH + 1):
        magnitude = world.means[features] + world.spreads[features] * torch.randn(len(rows), generator=generator)
        values = magnitude.relu() * scale
        found.append(Codes(rows, features, values))
        if depth < DEPTH:
            branch = (torch.rand(len(rows), 1, generator=generator) > world.chances[features]).sum(1)
            some = branch < BRANCHES
            rows, scale = rows[some], (values / world.means[features])[some]
            features = roots + BRANCHES * features[some] + branch[some]
    rows, features = drawn(world.single, samples, generator)
    features = features + roots * NODES
    magnitude = world.means[features] + world.spreads[features] * torch.randn(len(rows), generator=generator)
    found.append(Codes(rows, features, magnitude.relu()))
    rows, features, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = rows.argsort(stable=True)
    return Codes(rows[order], features[order], values[order])


class ForestStream:
    """Batches of all seeds, one slice per seed, for `common.saes.trainer`."""

    def __init__(self, forest: Forest, seeds: list[int], batch: int, device: str = "cpu") -> None:
        self.size, self.device = batch, device
        self.worlds = {seed: grow(forest, seed) for seed in seeds}

    def __call__(self, step: int, source: str) -> Batch:
        return self.batch(list(self.worlds), step)

    def batch(self, seeds: list[int], step: int) -> Batch:
        x = torch.stack([self.samples(seed, self.size, step)[0] for seed in seeds]).to(self.device)
        return Batch(x, x)

    def samples(self, seed: int, count: int, step: int) -> tuple[Float[Tensor, "sample d"], Codes]:
        """Scaled samples of one seed, and their code."""
        world = self.worlds[seed]
        code = codes(world, count, seed, step)
        return (mix(world.directions, code, count) + world.bias) * world.scale, code
