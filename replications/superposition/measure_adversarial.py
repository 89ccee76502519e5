"""Step: how much easier models with superposition are to fool (section 7, adversarial vulnerability).

Every point x is moved by a tenth of the mean norm of the inputs in the direction (W^T W)_i / ||.||, the worst i for
that point; the target stays x. The attack is analytic: gradients are masked by the ReLU. The excess loss L' - L is
divided by L'_0 - L_0, that of a model without superposition: m features with a dimension each move by exactly the
radius r, so it is r^2. Control: the worst of as many random directions as there are features, for every point, of the
same length and over the same r^2. Also reported: the excess over that of the trained dense model (s = 1) on the same
sparse points, whose biases were made for other data.
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution, over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import checked_dimensionality, dims_per_feature
from replications.superposition.grid import load_grid
from replications.superposition.streams import batch
from replications.superposition.tables import (
    PERMUTATIONS,
    add_pair,
    permuted_correlations,
    rank_correlation,
)

RADIUS = 0.1
DRAWN = 6 * 10**6  # step number whose batch neither training nor evaluation draws


def measure_adversarial(*, models: Path, seeds: list[int], attack_points: int, metrics: Path, table: Path) -> None:
    """Writes `metrics` (JSON) and `table` (CSV, one row per seed and density)."""
    grid = load_grid(models, "relu")
    W, b, densities = grid.W[:, :, 0, 0].float(), grid.b[:, :, 0, 0].float(), grid.densities
    checked_dimensionality(W.double())
    dims = dims_per_feature(W)
    dense, sparse = int(densities.argmax()), int(densities.argmin())
    data = batch(densities, W.shape[-1], attack_points, 0, DRAWN)
    rows, ratios = [], torch.zeros(4, len(seeds), len(densities), dtype=torch.float64)
    for k, seed in enumerate(seeds):
        random = torch.Generator().manual_seed(seed)
        for d, density in enumerate(densities.tolist()):
            x, weight = data.x[d], data.weight[d]
            directions = torch.randn(len(x), len(x), generator=random)
            radius = RADIUS * float(weight @ x.norm(dim=0))
            worst, blind = excess_losses(W[k, d], b[k, d], x, weight, radius, directions)
            other, _ = excess_losses(W[k, dense], b[k, dense], x, weight, radius, directions)
            ratios[:, k, d] = torch.tensor([worst / radius**2, blind / radius**2, worst / other, blind / other])
            rows.append([seed, density, float(dims[k, d]), *ratios[:3, k, d].tolist(), radius])
    attack, blind_attack, against_dense, blind_against_dense = ratios
    found: dict[str, Metric] = {}
    text = "(L' - L) / (L'_0 - L_0), sparsest density (`dense`: densest)"
    add_pair(found, "vulnerability", attack[:, sparse], blind_attack[:, sparse], "random", unit="1", formula=text)
    add_pair(found, "vulnerability", attack[:, sparse], attack[:, dense], "dense", unit="1", formula=text)
    text = "(L' - L) over that of the model trained at s = 1, on the same points, sparsest density"
    pair = (against_dense[:, sparse], blind_against_dense[:, sparse])
    add_pair(found, "vulnerability_over_dense_model", *pair, "random", unit="1", formula=text)
    text = "rank correlation over densities of (L' - L) / (L'_0 - L_0) with 1 / D*"
    rank = [rank_correlation(one.numpy(), 1 / dims[k].numpy()) for k, one in enumerate(attack)]
    null = [
        permuted_correlations(one.numpy(), 1 / dims[k].numpy(), seed)
        for k, (one, seed) in enumerate(zip(attack, seeds, strict=True))
    ]
    add_pair(found, "tracks_features", rank, [float(np.mean(one)) for one in null], "permuted", unit="1", formula=text)
    found["tracks_features_permuted"] = null_distribution(
        np.concatenate(null), unit="1", formula=f"{text}, densities permuted {PERMUTATIONS} times per seed"
    )
    slope = [float(np.polyfit(-dims[k].log().numpy(), one.log().numpy(), 1)[0]) for k, one in enumerate(attack)]
    found["growth_exponent"] = over_seeds(slope, unit="1", formula="slope of log vulnerability against log 1 / D*")
    write_metrics(metrics, found)
    names = ["seed", "density", "dims_per_feature", "vulnerability", "random", "over_dense_model", "radius"]
    write_table(table, rows, names, digits=8)


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
    run(measure_adversarial)
