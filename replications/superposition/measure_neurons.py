"""Step: which hidden unit serves which features when the hidden units have a ReLU (section 8, privileged basis).

A unit is polysemantic if two or more features have a weight above a quarter of its largest one. Best of many restarts
per density, as in the paper; the share of restarts that come close to the best says how many that takes. Controls: the
same model with linear hidden units, whose best solutions can be rotated at will, and the other end of the density
axis.
"""

import itertools
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import FORGOTTEN, HALF, norms
from replications.superposition.grid import load_grid
from replications.superposition.tables import add_pair, nearest

SERVED = 0.25  # share of a unit's largest weight above which it serves a feature
CLOSE = 1.05


def measure_neurons(*, models: Path, seeds: list[int], monosemantic_density: float, metrics: Path, table: Path) -> None:
    """Writes `metrics` (JSON) and `table` (CSV: weights of the best models)."""
    grids = {name: load_grid(models, name) for name in ("relu_hidden", "relu")}
    densities = grids["relu_hidden"].densities
    dense, sparse = nearest(densities, monosemantic_density), int(densities.argmin())
    best = {name: grid.best().W[:, :, 0] for name, grid in grids.items()}
    count = {name: polysemantic(W) for name, W in best.items()}
    found: dict[str, Metric] = {}
    text = f"hidden units with two or more weights above {SERVED} of the largest, best restart"
    pair = (count["relu_hidden"][:, dense], count["relu"][:, dense])
    add_pair(found, "dense_polysemantic", *pair, "rotated", unit="units", formula=f"{text}, dense")
    pair = (count["relu_hidden"][:, sparse], count["relu_hidden"][:, dense])
    add_pair(found, "sparse_polysemantic", *pair, "dense", unit="units", formula=f"{text}, sparsest")
    kept = (norms(best["relu_hidden"]) > HALF).double().sum(-1)[:, sparse]
    found["sparse_stored"] = over_seeds(kept.tolist(), unit="features", formula=f"||W_i|| > {HALF}, counted, sparsest")
    loss = grids["relu_hidden"].loss[:, :, 0]
    close = (loss <= CLOSE * loss.amin(-1, keepdim=True)).double().mean(-1)
    for name, at in (("dense", dense), ("sparse", sparse)):
        text = f"restarts within {CLOSE:g} times the best loss"
        found[f"{name}_close"] = over_seeds(close[:, at].tolist(), unit="share", formula=text)
    write_metrics(metrics, found)
    rows = [
        [name, seed, s, j, i, float(W[k, d, j, i]), int(count[name][k, d]), float(close[k, d])]
        for name, W in best.items()
        for (k, seed), (d, s) in itertools.product(enumerate(seeds), enumerate(densities.tolist()))
        for j, i in itertools.product(range(W.shape[-2]), range(W.shape[-1]))
    ]
    names = ["activation", "seed", "density", "unit", "feature", "weight", "polysemantic", "close"]
    write_table(table, rows, names, digits=8)


def polysemantic(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Number of hidden units that serve several features; units without weights serve none."""
    size = W.abs()
    largest = size.amax(-1, keepdim=True)
    served = ((size > SERVED * largest) & (largest > FORGOTTEN)).sum(-1)
    return (served >= 2).double().sum(-1)


if __name__ == "__main__":
    run(measure_neurons)
