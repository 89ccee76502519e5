"""Step: measures the introductory models (unequal importances): dense, intermediate and sparse features.

Reads the restarts of `train_plane`, keeps the best one per seed and density, writes `metrics.json` and a table with one
row per activation, seed, density and feature. The theorem sum_i D_i <= rank W is checked on every restart.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import (
    STORED,
    checked_dimensionality,
    dimensionality,
    dims_per_feature,
    norms,
    stored,
    superposition,
)
from replications.superposition.grid import load_grid
from replications.superposition.tables import column_table, nearest, worst_gap

DIGONS = [0.5, 0.5, 0.5, 0.5, 0.0]


def measure_intro(*, models: Path, seeds: list[int], middle_density: float, metrics: Path, table: Path) -> None:
    """Writes `metrics` (JSON) and `table` (CSV)."""
    grids = {name: load_grid(models, name) for name in ("relu", "linear")}
    for grid in grids.values():
        checked_dimensionality(grid.W)
    relu, linear = grids["relu"], grids["linear"]
    W, control = relu.best().W[:, :, 0], linear.best().W[:, :, 0]
    dense, sparse = int(relu.densities.argmax()), int(relu.densities.argmin())
    middle = nearest(relu.densities, middle_density)
    found: dict[str, Metric] = {}

    def add(name: str, effect: Tensor, null: Tensor, null_name: str, unit: str, formula: str) -> None:
        """Adds an effect, its control and their paired difference."""
        pairs = {name: effect, f"{name}_{null_name}": null, f"{name}_minus_{null_name}": effect - null}
        for key, values in pairs.items():
            found[key] = over_seeds(values.tolist(), unit=unit, formula=formula)

    add("dense_stored", stored(W[:, dense]), stored(W[:, sparse]), "sparse", "features", "||W_i|| > 0.9, counted")
    pair = pair_gap(W)
    add("dense_pair_gap", pair[:, dense], pair[:, sparse], "sparse", "1", "max |(||W_i||) - (1, 1, 0, 0, ...)|")
    dims = dims_per_feature(W)
    add("dense_dims_per_feature", dims[:, dense], dims[:, sparse], "sparse", "dimensions", "D* = m / ||W||_F^2")
    shared = shared_most(W)
    formula = "max over stored i of sum_{j != i} (What_i . W_j)^2"
    add("dense_superposition", shared[:, dense], shared[:, sparse], "sparse", "1", formula)
    gap = worst_gap(dimensionality(W), DIGONS)
    add("digon_gap", gap[:, middle], gap[:, dense], "dense", "dimensions", "max |sorted D_i - (1/2, 1/2, 1/2, 1/2, 0)|")
    add(
        "sparse_stored",
        stored(W)[:, sparse],
        stored(control)[:, sparse],
        "linear",
        "features",
        "||W_i|| > 0.9, counted",
    )
    most = stored(control).amax(1)
    found["linear_most_stored"] = over_seeds(most.tolist(), unit="features", formula="max over densities of the count")
    write_metrics(metrics, found)
    table_rows = column_table({name: (grid, grid.best()) for name, grid in grids.items()}, seeds)
    write_table(table, table_rows, digits=8)


def pair_gap(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Largest distance of a norm from 1 for the two most important features (the first two), from 0 for the others."""
    n = norms(W)
    return torch.maximum((n[..., :2] - 1).abs().amax(-1), n[..., 2:].amax(-1))


def shared_most(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Largest superposition among the features stored with full strength; 0 if there is none."""
    return torch.where(norms(W) > STORED, superposition(W), 0.0).amax(-1)


if __name__ == "__main__":
    run(measure_intro)
