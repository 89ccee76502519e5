"""Step: measures models with equal importances: two digons at one density, a regular pentagon at a sparser one.

The control of each claim is the other density: the same statistic there must miss. Writes `metrics.json`, the table of
columns, and a table of all restarts (their loss over the best one of the cell), which shows how common bad starts are.
"""

import itertools
from pathlib import Path

import pandas as pd

from common.core.metrics import write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import HALF, checked_dimensionality, dimensionality, norms
from replications.superposition.grid import load_grid
from replications.superposition.tables import column_table, nearest, worst_gap

PENTAGON = [0.4] * 5
DIGONS = [0.5] * 4 + [0.0]


def measure_polygons(
    *,
    models: Path,
    seeds: list[int],
    digon_density: float,
    pentagon_density: float,
    metrics: Path,
    table: Path,
    restarts: Path,
) -> None:
    """Writes `metrics` (JSON), `table` (CSV) and `restarts` (CSV)."""
    grid = load_grid(models, "relu")
    checked_dimensionality(grid.W)
    best = grid.best()
    shares = dimensionality(best.W)[:, :, 0]
    places = {"pentagon": nearest(grid.densities, pentagon_density), "digon": nearest(grid.densities, digon_density)}
    found = {}
    for name, polygon, other in (("pentagon", PENTAGON, "digon"), ("digon", DIGONS, "pentagon")):
        gap = worst_gap(shares, polygon)
        effect, null = gap[:, places[name]], gap[:, places[other]]
        formula = f"max |sorted D_i - ({', '.join(f'{share:g}' for share in polygon)})|"
        swapped = {f"{name}_gap": effect, f"{name}_gap_swapped": null, f"{name}_gap_difference": effect - null}
        for key, values in swapped.items():
            found[key] = over_seeds(values.tolist(), unit="dimensions", formula=formula)
        found[f"{name}_sum"] = over_seeds(
            shares[:, places[name]].sum(-1).tolist(), unit="dimensions", formula="sum_i D_i, at most rank W"
        )
    write_metrics(metrics, found)
    columns = column_table({"relu": (grid, best)}, seeds)
    write_table(table, columns, digits=8)
    count = (norms(grid.W) > HALF).sum(-1)
    rows = [
        [seed, density, r, int(count[s, d, 0, r]), float(grid.loss[s, d, 0, r]), float(best.loss[s, d, 0])]
        for (s, seed), (d, density), r in itertools.product(
            enumerate(seeds), enumerate(grid.densities.tolist()), range(grid.loss.shape[-1])
        )
    ]
    frame = pd.DataFrame(rows, columns=["seed", "density", "restart", "stored", "loss", "best_loss"])
    write_table(restarts, frame, digits=8)


if __name__ == "__main__":
    run(measure_polygons)
