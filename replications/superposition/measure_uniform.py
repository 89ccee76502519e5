"""Step: sticky dimensionalities of n equally important features (section 4), and attacks on these models (section 7).

`uniform`: D* = m / ||W||_F^2 against density: how much of the way between its neighbouring levels it spends at 1/2.
D_i of every stored feature: how many lie at the share of a regular arrangement. Controls: any other level of equal
width; the linear model on the same data; random directions with the norms of the trained columns; untrained weights;
other densities. The sum of the D_i is compared with the number of hidden dimensions, its upper bound (a theorem,
checked on every model).

`adversarial`: every point x is moved by a tenth of the mean norm of the inputs in the direction (W^T W)_i / ||.||, the
worst i for that point; the target stays x. The attack is analytic: gradients are masked by the ReLU. The excess loss
L' - L is divided by L'_0 - L_0, that of a model without superposition: m features with a dimension each move by exactly
the radius r, so it is r^2. Controls: the worst of as many random directions as there are features, for every point, of
the same length and over the same r^2; and the densest models, without superposition. Also reported: the excess over
that of the trained dense model (s = 1) on the same sparse points, whose biases were made for other data; and the rank
correlation of vulnerability with 1 / D*, beside what random directions and density alone give.
"""

from pathlib import Path

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
from replications.superposition.tables import compare, compare_ranks
from replications.superposition.training import initial

LEVELS = (3 / 4, 2 / 3, 1 / 2, 2 / 5, 3 / 8)  # tetrahedron, triangle, digon, pentagon, square antiprism
CLOSE = 0.02
ABOVE, BELOW = 0.75, 0.45  # halfway from 1 to 1/2, and from 1/2 to 2/5, the next regular arrangement
DRAWS = 20
LINK = 0.2  # |W_i . W_j| above which two features are drawn as linked
RADIUS = 0.1
DRAWN = 6 * 10**6  # step number whose batch neither training nor evaluation draws

Models = Float[Tensor, "density hidden feature"]


class MeasureFiles(Files):
    models: Path
    uniform_metrics: Path
    uniform_table: Path
    """one row per activation, seed, density and feature"""
    graphs: Path
    """pairs of linked features of the first seed"""
    adversarial_metrics: Path
    adversarial_table: Path


def measure_uniform(files: MeasureFiles, settings: Uniform, run: RunInfo) -> None:
    """Measures the geometry of the models, and attacks them."""
    grids = {name: load_grid(files.models, name) for name in ("relu", "linear")}
    write_metrics(files.uniform_metrics, uniform_metrics(grids, settings, run.seeds))
    write_uniform_tables(files, grids, run.seeds)
    attacks = attack(grids["relu"], settings.attack_points, run.seeds)
    write_metrics(files.adversarial_metrics, adversarial_metrics(grids["relu"], attacks, run.seeds))
    densities, dims = grids["relu"].densities.tolist(), dims_per_feature(grids["relu"].W[:, :, 0, 0].float())
    rows = [
        [
            seed,
            density,
            float(dims[k, d]),
            *(float(attacks[name][k, d]) for name in ATTACKS),
            float(attacks["radius"][d]),
        ]
        for k, seed in enumerate(run.seeds)
        for d, density in enumerate(densities)
    ]
    write_table(files.adversarial_table, rows, ["seed", "density", "dims_per_feature", *ATTACKS, "radius"], digits=8)


def uniform_metrics(grids: dict[str, Grid], settings: Uniform, seeds: list[int]) -> dict[str, Metric]:
    """Dimensions per feature by density, and the dimensionalities of single features."""
    W = {name: grid.W[:, :, 0, 0] for name, grid in grids.items()}
    shares = {name: checked_dimensionality(one) for name, one in W.items()}
    dims = {name: dims_per_feature(one) for name, one in W.items()}
    densities, hidden = grids["relu"].densities, W["relu"].shape[-2]
    dense, sparse = int(densities.argmax()), int(densities.argmin())
    plateaus = [plateau_shares(one, densities) for one in dims["relu"]]
    text = "D* = m / ||W||_F^2"
    metrics = {
        "dense_dims": compare(dims["relu"][:, dense], unit="dimensions", formula=text, sparse=dims["relu"][:, sparse]),
        "sparse_dims": compare(
            dims["relu"][:, sparse], unit="dimensions", formula=text, linear=dims["linear"][:, sparse]
        ),
        "plateau": compare(
            [at for at, _ in plateaus],
            unit="share",
            formula=f"share of log density between D* = {ABOVE} and {BELOW} with D* within {CLOSE} of 1/2",
            other_levels=[elsewhere for _, elsewhere in plateaus],
        ),
    }
    low, high = settings.polytope_densities
    inside, sparser = (densities >= low) & (densities <= high), densities < low
    untrained = []
    for seed in seeds:
        start = untrained_weights(hidden, W["relu"].shape[-1], seed)
        untrained.append(at_levels(checked_dimensionality(start), start))
    around = [
        [matched(one[inside], 1000 * seed + k) for k in range(DRAWS)]
        for one, seed in zip(W["relu"], seeds, strict=True)
    ]
    random = [[matched(one, 1000 * seed + k) for k in range(DRAWS)] for one, seed in zip(W["relu"], seeds, strict=True)]
    thin = [[draw[sparser] for draw in draws] for draws in random]
    text = f"stored features with D_i within {CLOSE} of 3/4, 2/3, 1/2, 2/5 or 3/8"
    for name, which, draws in (("clusters", inside, around), ("clusters_sparser", sparser, thin)):
        metrics[name] = compare(
            [at_levels(s, one) for s, one in zip(shares["relu"][:, which], W["relu"][:, which], strict=True)],
            unit="share",
            formula=text if name == "clusters" else f"{text}, at all sparser densities",
            random_directions=[
                float(np.mean([at_levels(checked_dimensionality(draw), draw) for draw in of_seed])) for of_seed in draws
            ],
            untrained=untrained,
        )
    metrics["efficiency"] = compare(
        (shares["relu"].sum(-1) / hidden).amin(1),
        unit="1",
        formula="smallest sum_i D_i / m over densities",
        random_directions=[
            float(np.mean([float((checked_dimensionality(draw).sum(-1) / hidden).min()) for draw in draws]))
            for draws in random
        ],
    )
    return metrics


def write_uniform_tables(files: MeasureFiles, grids: dict[str, Grid], seeds: list[int]) -> None:
    """Norm and dimensionality of every feature; products of linked pairs of the first seed."""
    rows = []
    densities = grids["relu"].densities.tolist()
    for name, grid in grids.items():
        W = grid.W[:, :, 0, 0]
        size, shares, dims = norms(W), checked_dimensionality(W), dims_per_feature(W)
        rows += [
            [name, seed, density, i, float(size[k, d, i]), float(shares[k, d, i]), float(dims[k, d])]
            for k, seed in enumerate(seeds)
            for d, density in enumerate(densities)
            for i in range(W.shape[-1])
        ]
    names = ["activation", "seed", "density", "feature", "norm", "dimensionality", "dims_per_feature"]
    write_table(files.uniform_table, rows, names, digits=8)
    first = grids["relu"].W[0, :, 0, 0]
    products = first.mT @ first
    links = [
        [density, i, j, float(products[d, i, j])]
        for d, density in enumerate(densities)
        for i, j in (products[d].abs() > LINK).nonzero().tolist()
        if i <= j
    ]
    write_table(files.graphs, links, ["density", "feature", "other", "product"], digits=8)


def plateau_shares(dims: Float[Tensor, " density"], densities: Float[Tensor, " density"]) -> tuple[float, float]:
    """Share of log density, between D* = `ABOVE` and `BELOW`, at 1/2; the largest share at any other level there.

    D* is interpolated linearly in log density. Densities run from dense to sparse.
    """
    fine = np.linspace(float(densities[0].log()), float(densities[-1].log()), 4001)
    values = np.interp(-fine, -densities.log().numpy(), dims.numpy())
    values = values[int((values < ABOVE).argmax()) :]
    values = values[: int((values < BELOW).argmax()) or None]
    others = [level for level in np.arange(BELOW, ABOVE, 0.005) if abs(level - 0.5) > 2 * CLOSE]
    at = [float((np.abs(values - level) <= CLOSE).mean()) for level in (0.5, *others)]
    return at[0], max(at[1:])


def at_levels(shares: Float[Tensor, "density feature"], W: Float[Tensor, "density hidden feature"]) -> float:
    """Share of the stored features (norm above 1/2; of all features, if none is stored) at one of the `LEVELS`."""
    near = (shares[..., None] - torch.tensor(LEVELS, dtype=shares.dtype)).abs().amin(-1) <= CLOSE
    kept = norms(W) > HALF
    return float((near[kept] if kept.any() else near).double().mean())


def untrained_weights(hidden: int, features: int, seed: int) -> Float[Tensor, "draw hidden feature"]:
    """Weights as training begins with, `DRAWS` times."""
    return initial(DRAWS, hidden, features, torch.Generator().manual_seed(seed))[0]


def matched(W: Float[Tensor, "density hidden feature"], seed: int) -> Float[Tensor, "density hidden feature"]:
    """Columns with the norms of `W` in random directions."""
    random = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=W.dtype)
    return random * (norms(W) / norms(random))[..., None, :]


ATTACKS = ("vulnerability", "random", "over_dense_model")


def attack(grid: Grid, points: int, seeds: list[int]) -> dict[str, Float[Tensor, "*seed_density"]]:
    """Of every seed and density: L' - L for the worst feature and the worst random direction, over r^2 and over that
    of the densest model on the same points; and the radius of every density."""
    W, b, densities = grid.W[:, :, 0, 0].float(), grid.b[:, :, 0, 0].float(), grid.densities
    checked_dimensionality(W.double())
    dense = int(densities.argmax())
    data = batch(densities, W.shape[-1], points, 0, DRAWN)
    ratios = torch.zeros(4, len(seeds), len(densities), dtype=torch.float64)
    radii = torch.tensor([RADIUS * float(w @ x.norm(dim=0)) for x, w in zip(*data, strict=True)], dtype=torch.float64)
    for k, seed in enumerate(seeds):
        random = torch.Generator().manual_seed(seed)
        for d, radius in enumerate(radii.tolist()):
            x, weight = data.x[d], data.weight[d]
            directions = torch.randn(len(x), len(x), generator=random)
            worst, blind = excess_losses(W[k, d], b[k, d], x, weight, radius, directions)
            other, _ = excess_losses(W[k, dense], b[k, dense], x, weight, radius, directions)
            ratios[:, k, d] = torch.tensor([worst / radius**2, blind / radius**2, worst / other, blind / other])
    return dict(zip((*ATTACKS, "random_over_dense_model", "radius"), (*ratios, radii), strict=True))


def adversarial_metrics(grid: Grid, attacks: dict[str, Tensor], seeds: list[int]) -> dict[str, Metric]:
    """Vulnerability of the sparsest models against its controls, and how it follows the features per dimension."""
    dense, sparse = int(grid.densities.argmax()), int(grid.densities.argmin())
    dims = dims_per_feature(grid.W[:, :, 0, 0].float())
    worst, random = attacks["vulnerability"], attacks["random"]
    crowding, sparsity = (1 / dims).double(), (1 / grid.densities).expand(len(seeds), -1)
    ranks = {
        name: compare_ranks(*pair, seeds, formula="").per_seed or []
        for name, pair in {"random_directions": (random, crowding), "density_alone": (worst, sparsity)}.items()
    }
    slope = [float(np.polyfit(-dims[k].log().numpy(), one.log().numpy(), 1)[0]) for k, one in enumerate(worst)]
    return {
        "vulnerability": compare(
            worst[:, sparse],
            unit="1",
            formula="(L' - L) / (L'_0 - L_0), sparsest density",
            random_directions=random[:, sparse],
            densest_models=worst[:, dense],
        ),
        "vulnerability_over_dense_model": compare(
            attacks["over_dense_model"][:, sparse],
            unit="1",
            formula="(L' - L) over that of the model trained at s = 1, on the same points, sparsest density",
            random_directions=attacks["random_over_dense_model"][:, sparse],
        ),
        "tracks_features": compare_ranks(
            worst,
            crowding,
            seeds,
            formula="rank correlation over densities of (L' - L) / (L'_0 - L_0) with 1 / D*",
            **ranks,
        ),
        "growth_exponent": compare(slope, unit="1", formula="slope of log vulnerability against log 1 / D*"),
    }


def excess_losses(
    W: Float[Tensor, "hidden feature"],
    b: Float[Tensor, " feature"],
    x: Float[Tensor, "feature sample"],
    weight: Float[Tensor, " sample"],
    radius: float,
    directions: Float[Tensor, "feature direction"],
) -> tuple[float, float]:
    """L' - L for the worst of the n feature directions at every point, and for the worst of the given `directions`."""
    clean = _losses(W, b, W @ x, x)
    both = [_worst(W, b, x, radius, columns) for columns in (W.T @ W, directions)]
    worst, blind = (float(weight @ (losses - clean)) for losses in both)
    return worst, blind


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
