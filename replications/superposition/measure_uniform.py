"""Step: sticky dimensionalities of n equally important features (section 4), and attacks on these models (section 6).

`uniform`: D* = m / ||W||_F^2 against density: how much of the way between its neighbouring levels it spends at 1/2.
Control: any other level of equal width. (D* = 1, the paper's other plateau, proves nothing: every projection on m
dimensions has it, and with equal importances dense models are such projections. That dense models give features a
dimension each is measured with unequal importances, in `many_features`.) D_i of every stored feature: how many lie at
the share of a regular arrangement. Controls: random directions with the norms of the trained columns; untrained
weights.

`adversarial`: every point x is moved by a tenth of the mean norm of the inputs in the direction (W^T W)_i / ||.||. The
i is the worst for that point, and the target stays x. The attack is analytic: gradients are masked by the ReLU. The
excess loss L' - L is divided by L'_0 - L_0, that of the model trained at s = 1, which has no superposition. Attack and
points are the same. Control: the worst of as many random directions as there are features, for every point and of the
same length, for both models; and these directions within the m dimensions that each model reads, since a dense model
ignores all others. Also measured: the excess over r^2, what the move costs an ideal model with a dimension
per feature. Also the rank correlation of vulnerability with 1 / D*, beside those of random directions and of density.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import HALF, checked_dimensionality, dims_per_feature, norms
from replications.superposition.grid import Grid, load_grid
from replications.superposition.settings import Uniform
from replications.superposition.streams import batch
from replications.superposition.tables import compare, rank_correlation
from replications.superposition.training import initial

LEVELS = {"3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
CLOSE = 0.02
ABOVE, BELOW = 0.75, 0.45  # halfway from 1 to 1/2, and from 1/2 to 2/5, the next regular arrangement
DENSE, NEXT = 1 - CLOSE, 2 / 5 + CLOSE  # where D* has left 1, and where it reaches the next one
DRAWS = 20
LINK = 0.2  # |W_i . W_j| above which two features are drawn as linked
RADIUS = 0.1
DRAWN = 6 * 10**6  # step number whose batch neither training nor evaluation draws


class MeasureFiles(Files):
    models: Path
    uniform_metrics: Path
    uniform_table: Path
    """one row per seed, density and feature"""
    graphs: Path
    """pairs of linked features of the first seed"""
    adversarial_metrics: Path
    adversarial_table: Path


def measure_uniform(files: MeasureFiles, settings: Uniform, run: RunInfo) -> None:
    """Measures the geometry of the models, and attacks them."""
    grid = load_grid(files.models, "relu")
    write_metrics(files.uniform_metrics, uniform_metrics(grid, settings, run.seeds))
    write_uniform_tables(files, grid, run.seeds)
    attacks = attack(grid, settings.attack_points, run.seeds)
    write_metrics(files.adversarial_metrics, adversarial_metrics(grid, attacks, run.seeds))
    dims = dims_per_feature(grid.W[:, :, 0, 0])
    rows = [
        [seed, density, float(dims[k, d]), *(float(attacks[name][k, d]) for name in ATTACKS)]
        for k, seed in enumerate(run.seeds)
        for d, density in enumerate(grid.densities.tolist())
    ]
    write_table(files.adversarial_table, rows, ["seed", "density", "dims_per_feature", *ATTACKS], digits=8)


def uniform_metrics(grid: Grid, settings: Uniform, seeds: list[int]) -> dict[str, Metric]:
    """Dimensions per feature by density, and the dimensionalities of single features."""
    W = grid.W[:, :, 0, 0]
    shares, dims, kept = checked_dimensionality(W), dims_per_feature(W), norms(W) > HALF
    densities, hidden = grid.densities, W.shape[-2]
    plateaus, whole = (
        [plateau_shares(one, densities, *ends) for one in dims] for ends in ((ABOVE, BELOW), (DENSE, NEXT))
    )
    sparser = densities < settings.plateau_ends
    levels = list(LEVELS.values())
    random = [
        [matched(one[sparser], 1000 * seed + k) for k in range(DRAWS)] for one, seed in zip(W, seeds, strict=True)
    ]
    shape = (DRAWS, hidden, W.shape[-1])
    untrained = [initial(*shape, torch.Generator().manual_seed(seed))[0] for seed in seeds]
    metrics = {
        "sparse_dims": compare(dims[:, densities.argmin()], unit="dimensions", formula="D* = m / ||W||_F^2"),
        "plateau": compare(
            [at for at, _ in plateaus],
            unit="share",
            formula=f"share of log density between D* = {ABOVE} and {BELOW} with D* within {CLOSE} of 1/2",
            other_levels=[elsewhere for _, elsewhere in plateaus],
        ),
        "plateau_from_level_to_level": compare(
            [at for at, _ in whole],
            unit="share",
            formula=f"share of log density between D* = {DENSE} and {NEXT} with D* within {CLOSE} of 1/2",
            other_levels=[elsewhere for _, elsewhere in whole],
        ),
        "clusters_sparser": compare(
            [at_levels(one[sparser], which[sparser], levels) for one, which in zip(shares, kept, strict=True)],
            unit="share",
            formula=f"stored features with D_i within {CLOSE} of {', '.join(LEVELS)}, at densities below the plateau's",
            random_directions=[
                float(np.mean([at_levels(checked_dimensionality(one), norms(one) > HALF, levels) for one in draws]))
                for draws in random
            ],
            untrained=[at_levels(checked_dimensionality(one), norms(one) > HALF, levels) for one in untrained],
        ),
        "efficiency": compare(
            (shares.sum(-1) / hidden).amin(1), unit="1", formula="smallest sum_i D_i / m over densities"
        ),
    }
    for name, level in LEVELS.items():
        most = [
            max(at_levels(s, which, [level]) for s, which in zip(one, of_seed, strict=True))
            for one, of_seed in zip(shares, kept, strict=True)
        ]
        text = f"share of the stored features within {CLOSE} of {name}, at the density where it is largest"
        metrics[f"most_at_{name.replace('/', '_')}"] = compare(most, unit="share", formula=text)
    return metrics


def write_uniform_tables(files: MeasureFiles, grid: Grid, seeds: list[int]) -> None:
    """Norm and dimensionality of every feature; products of linked pairs of the first seed."""
    W, densities = grid.W[:, :, 0, 0], grid.densities.tolist()
    size, shares, dims = norms(W), checked_dimensionality(W), dims_per_feature(W)
    rows = [
        [seed, density, i, float(size[k, d, i]), float(shares[k, d, i]), float(dims[k, d])]
        for k, seed in enumerate(seeds)
        for d, density in enumerate(densities)
        for i in range(W.shape[-1])
    ]
    names = ["seed", "density", "feature", "norm", "dimensionality", "dims_per_feature"]
    write_table(files.uniform_table, rows, names, digits=8)
    products = W[0].mT @ W[0]
    links = [
        [density, i, j, float(products[d, i, j])]
        for d, density in enumerate(densities)
        for i, j in (products[d].abs() > LINK).nonzero().tolist()
        if i <= j
    ]
    write_table(files.graphs, links, ["density", "feature", "other", "product"], digits=8)


def plateau_shares(
    dims: Float[Tensor, " density"], densities: Float[Tensor, " density"], above: float, below: float
) -> tuple[float, float]:
    """Share of log density, between D* = `above` and `below`, at 1/2; the largest share at any other level there.

    D* is interpolated linearly in log density. Densities run from dense to sparse.
    """
    fine = np.linspace(float(densities[0].log()), float(densities[-1].log()), 4001)
    values = np.interp(-fine, -densities.log().numpy(), dims.numpy())
    values = values[int((values < above).argmax()) :]
    values = values[: int((values < below).argmax()) or None]
    others = [level for level in np.arange(below, above, 0.005) if abs(level - 0.5) > 2 * CLOSE]
    at = [float((np.abs(values - level) <= CLOSE).mean()) for level in (0.5, *others)]
    return at[0], max(at[1:])


def at_levels(shares: Float[Tensor, "*batch feature"], kept: Tensor, levels: list[float]) -> float:
    """Share of the stored features (of all features, if none is stored) at one of the levels."""
    near = (shares[..., None] - torch.tensor(levels, dtype=shares.dtype)).abs().amin(-1) <= CLOSE
    return float((near[kept] if kept.any() else near).double().mean())


def matched(W: Float[Tensor, "density hidden feature"], seed: int) -> Float[Tensor, "density hidden feature"]:
    """Columns with the norms of `W` in random directions."""
    random = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=W.dtype)
    return random * (norms(W) / norms(random))[..., None, :]


ATTACKS = ("vulnerability", "random", "row_space", "ideal", "random_ideal")


def attack(grid: Grid, points: int, seeds: list[int]) -> dict[str, Float[Tensor, "seed density"]]:
    """L' - L of every seed and density, for the worst feature and the worst random direction, of all or of those that
    the model reads. It is given over that of the model trained at s = 1 on the same points, and over r^2."""
    W, b, densities = grid.W[:, :, 0, 0].float(), grid.b[:, :, 0, 0].float(), grid.densities
    dense = int(densities.argmax())
    data = batch(densities, W.shape[-1], points, 0, DRAWN)
    ratios = torch.zeros(len(ATTACKS), len(seeds), len(densities), dtype=torch.float64)
    for k, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for d, (x, weight) in enumerate(zip(*data, strict=True)):
            radius = RADIUS * float(weight @ x.norm(dim=0))
            directions = torch.randn(len(x), len(x), generator=generator)
            losses = excess_losses(W[k, d], b[k, d], x, weight, radius, directions)
            others = excess_losses(W[k, dense], b[k, dense], x, weight, radius, directions)
            over_dense = [loss / other for loss, other in zip(losses, others, strict=True)]
            ratios[:, k, d] = torch.tensor([*over_dense, losses.feature / radius**2, losses.random / radius**2])
    return dict(zip(ATTACKS, ratios, strict=True))


def adversarial_metrics(grid: Grid, attacks: dict[str, Tensor], seeds: list[int]) -> dict[str, Metric]:
    """Vulnerability of the sparsest models against its controls, and how it follows the features per dimension."""
    dense, sparse = int(grid.densities.argmax()), int(grid.densities.argmin())
    n_hidden, n_features = grid.W.shape[-2:]
    crowding = 1 / dims_per_feature(grid.W[:, :, 0, 0])
    sparsity = (1 / grid.densities).expand(len(seeds), -1)
    pairs = {
        "feature_directions": (attacks["vulnerability"], crowding),
        "random_directions": (attacks["random"], crowding),
        "density_alone": (attacks["vulnerability"], sparsity),
    }
    ranks = {
        name: [rank_correlation(a.numpy(), b.numpy()) for a, b in zip(*pair, strict=True)]
        for name, pair in pairs.items()
    }
    ideal = attacks["ideal"]
    return {
        "vulnerability": compare(
            attacks["vulnerability"][:, sparse],
            unit="1",
            formula="(L' - L) over that of the model trained at s = 1, on the same points, sparsest density",
            random_directions=attacks["random"][:, sparse],
            row_space_directions=attacks["row_space"][:, sparse],
        ),
        "vulnerability_over_ideal": compare(
            ideal[:, sparse],
            unit="1",
            formula="(L' - L) / r^2, sparsest density",
            random_directions=attacks["random_ideal"][:, sparse],
            densest_models=ideal[:, dense],
        ),
        "dense_over_optimum": compare(
            grid.loss[:, dense, 0, 0] / ((n_features - n_hidden) / 12),
            unit="1",
            formula="loss at s = 1 over (n - m) / 12, that of the best projection",
        ),
        "tracks_features": compare(
            ranks.pop("feature_directions"),
            unit="1",
            formula="rank correlation over densities of vulnerability with 1 / D*",
            **ranks,
        ),
    }


class Excess(NamedTuple):
    """L' - L, by what the worst direction at every point was chosen from."""

    feature: float
    random: float
    row_space: float


def excess_losses(
    W: Float[Tensor, "hidden feature"],
    b: Float[Tensor, " feature"],
    x: Float[Tensor, "feature sample"],
    weight: Float[Tensor, " sample"],
    radius: float,
    directions: Float[Tensor, "feature direction"],
) -> Excess:
    """L' - L for the worst of the n feature directions at every point; for the worst of the given `directions`; and for
    the worst of these without what lies outside the space that the model reads, the rows of W."""
    clean, read = _losses(W, b, W @ x, x), torch.linalg.pinv(W) @ (W @ directions)
    each = [_worst(W, b, x, radius, columns) for columns in (W.T @ W, directions, read)]
    return Excess(*(float(weight @ (losses - clean)) for losses in each))


def _worst(
    W: Float[Tensor, "hidden feature"],
    b: Float[Tensor, " feature"],
    x: Float[Tensor, "feature sample"],
    radius: float,
    directions: Float[Tensor, "feature direction"],
) -> Float[Tensor, " sample"]:
    """Largest loss of every point over moves of length `radius` along the columns of `directions`."""
    moves = radius * W @ (directions / directions.norm(dim=0).clamp(min=1e-12))
    hidden = rearrange(W @ x, "hidden sample -> hidden 1 sample") + rearrange(moves, "hidden d -> hidden d 1")
    flat = rearrange(hidden, "hidden direction sample -> hidden (direction sample)")
    count = directions.shape[1]
    return _losses(W, b, flat, x.repeat(1, count)).reshape(count, -1).amax(0)


def _losses(W: Tensor, b: Tensor, hidden: Tensor, x: Tensor) -> Float[Tensor, " sample"]:
    output = (W.T @ hidden + b[:, None]).relu_()
    return (output - x).square_().sum(0)


if __name__ == "__main__":
    run_step(measure_uniform)
