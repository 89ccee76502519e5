"""Step: which of few features are stored, and how they share the hidden units (sections 1, 2 and 4).

`intro`: five features of falling importance in a plane; dense, intermediate and sparse. `polygons`: five equally
important ones; two digons at one density, a regular pentagon at a sparser one, each the other's control. Dimensions of
2/5 do not make a pentagon: a right angle and a regular triangle in one plane have them, too, so angles are measured.
`many_features`: twenty in five units. The linear model must lose what theory says, v(s) sum_{i > m} I_i with
v(s) = s/3 - s^2/4: it keeps the m most important features. The ReLU model is no better when dense, far better when
sparse. Beside it stands what features lose that are laid out by hand, as antipodal pairs. Importances differ, so that a
dense model's features each have a dimension of their own, D_i = 1.

The best restart of each seed and density counts; the theorem sum_i D_i <= rank W is checked on all of them.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import (
    HALF,
    STORED,
    checked_dimensionality,
    dimensionality,
    norms,
    stored,
)
from replications.superposition.grid import Grid, load_grid
from replications.superposition.model import Activation, Data, evaluate
from replications.superposition.settings import RANDOM, Intro, MeasureFeatures, Polygons
from replications.superposition.streams import batch
from replications.superposition.tables import (
    column_rows,
    column_table,
    compare,
    gram_rows,
    nearest,
    worst_gap,
)
from replications.superposition.theory import variance

POINTS, FRESH = 2**17, 7 * 10**6  # of `fresh_loss`, and the step number whose batch nothing else draws
PENTAGON = [0.4] * 5
DIGONS = [0.5] * 4 + [0.0]


class MeasureFiles(Files):
    intro_models: Path
    polygons_models: Path
    many_features_models: Path
    intro_metrics: Path
    intro_table: Path
    polygons_metrics: Path
    polygons_table: Path
    many_features_metrics: Path
    many_features_table: Path
    products: Path
    """W^T W of the first seed"""


def measure_features(files: MeasureFiles, settings: MeasureFeatures, run: RunInfo) -> None:
    """Measures the three parts."""
    grids = {name: checked_grid(files.intro_models, name) for name in ("relu", "linear")}
    write_metrics(files.intro_metrics, intro_metrics(grids, settings.intro))
    write_table(files.intro_table, column_table({k: (g, g.best()) for k, g in grids.items()}, run.seeds), digits=8)

    grid = checked_grid(files.polygons_models, "relu")
    write_metrics(files.polygons_metrics, polygon_metrics(grid, settings.polygons))
    write_table(files.polygons_table, column_table({"relu": (grid, grid.best())}, run.seeds), digits=8)

    grids = {name: checked_grid(files.many_features_models, name) for name in ("relu", "linear")}
    random = checked_grid(files.many_features_models, RANDOM)
    write_metrics(files.many_features_metrics, many_metrics(grids | {RANDOM: random}))
    best = {name: grid.best() for name, grid in grids.items()}
    W = {name: one.W[:, :, 0] for name, one in best.items()}
    rows = [
        row for name in W for row in column_rows(name, grids[name].densities, W[name], best[name].b[:, :, 0], run.seeds)
    ]
    names = ["activation", "seed", "density", "feature", "norm", "superposition", "bias"]
    write_table(files.many_features_table, rows, names, digits=8)
    densities = grids["relu"].densities.tolist()
    grams = [
        row for name in W for d, density in enumerate(densities) for row in gram_rows(W[name][0, d], name, density)
    ]
    write_table(files.products, grams, ["activation", "density", "feature", "other", "product"], digits=8)


def checked_grid(path: Path, name: str) -> Grid:
    """A grid whose restarts all satisfy sum_i D_i <= rank W."""
    grid = load_grid(path, name)
    checked_dimensionality(grid.W)
    return grid


def intro_metrics(grids: dict[str, Grid], settings: Intro) -> dict[str, Metric]:
    """Dense models store two features, intermediate ones two digons, sparse ones all five."""
    densities = grids["relu"].densities
    W, linear = (grids[name].best().W[:, :, 0] for name in ("relu", "linear"))
    dense, sparse, middle = (
        int(densities.argmax()),
        int(densities.argmin()),
        nearest(densities, settings.middle_density),
    )
    count, linear_count, pair = stored(W), stored(linear), pair_gap(W)
    gap = worst_gap(dimensionality(W), DIGONS)
    counted = f"||W_i|| > {STORED}, counted"
    return {
        "dense_stored": compare(count[:, dense], unit="features", formula=counted, sparse=count[:, sparse]),
        "dense_pair_gap": compare(
            pair[:, dense], unit="1", formula="max |(||W_i||) - (1, 1, 0, 0, ...)|", sparse=pair[:, sparse]
        ),
        "digon_gap": compare(
            gap[:, middle],
            unit="dimensions",
            formula="max |sorted D_i - (1/2, 1/2, 1/2, 1/2, 0)|",
            dense=gap[:, dense],
        ),
        "sparse_stored": compare(
            count[:, sparse], unit="features", formula=counted, linear=linear_count[:, sparse], dense=count[:, dense]
        ),
    }


def pair_gap(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Largest distance of a norm from 1 for the two most important features (the first two), from 0 for the others."""
    n = norms(W)
    return torch.maximum((n[..., :2] - 1).abs().amax(-1), n[..., 2:].amax(-1))


def polygon_metrics(grid: Grid, settings: Polygons) -> dict[str, Metric]:
    """Distance of the dimensionalities from those of a polygon, at its density and at that of the other polygon."""
    shares = dimensionality(grid.best().W)[:, :, 0]
    pentagon, digon = (nearest(grid.densities, at) for at in (settings.pentagon_density, settings.digon_density))
    gaps = {name: worst_gap(shares, polygon) for name, polygon in (("pentagon", PENTAGON), ("digon", DIGONS))}
    text = "max |sorted D_i - ({})|"
    angles = angle_gap(grid.best().W[:, :, 0])
    draws = torch.randn(len(angles), 2, len(PENTAGON), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "pentagon_angles": compare(
            angles[:, pentagon],
            unit="degrees",
            formula="largest distance of an angle between neighbours in the plane from 72 degrees",
            digon_density=angles[:, digon],
            random_directions=angle_gap(draws),
        ),
        "pentagon_gap": compare(
            gaps["pentagon"][:, pentagon],
            unit="dimensions",
            formula=text.format(", ".join(f"{share:g}" for share in PENTAGON)),
            digon_density=gaps["pentagon"][:, digon],
        ),
        "digon_gap": compare(
            gaps["digon"][:, digon],
            unit="dimensions",
            formula=text.format(", ".join(f"{share:g}" for share in DIGONS)),
            pentagon_density=gaps["digon"][:, pentagon],
        ),
    }


def angle_gap(W: Float[Tensor, "*batch 2 feature"]) -> Float[Tensor, "*batch"]:
    """Largest distance of an angle between neighbours from that of a regular polygon, in degrees."""
    angles = torch.atan2(W[..., 1, :], W[..., 0, :]).rad2deg().sort(dim=-1).values
    gaps = torch.diff(angles, append=angles[..., :1] + 360)
    return (gaps - 360 / W.shape[-1]).abs().amax(-1)


def many_metrics(grids: dict[str, Grid]) -> dict[str, Metric]:
    """Losses over the linear optimum, and features stored. Densities run from dense to sparse; models of random
    directions have the sparsest one alone."""
    importance, hidden = grids["relu"].importance[0], grids["relu"].W.shape[-2]

    def over_optimum(name: str) -> Float[Tensor, "seed density"]:
        left = torch.tensor([variance(s) for s in grids[name].densities.tolist()], dtype=torch.float64)
        return fresh_loss(grids[name], "linear" if name == "linear" else "relu") / (left * importance[hidden:].sum())

    ratio = {name: over_optimum(name) for name in grids}
    W = grids["relu"].best().W[:, :, 0]
    far = {name: (one - 1).abs().amax(1) for name, one in ratio.items()}
    return {
        "linear_off_theory": compare(
            far["linear"],
            unit="1",
            formula="largest |loss / optimum - 1| over densities, optimum v(s) sum_{i > m} I_i",
            relu=far["relu"],
        ),
        "dense_dimensionality": compare(
            dimensionality(W)[:, 0, :hidden].amin(-1),
            unit="dimensions",
            formula="smallest D_i of the m most important features, densest",
            sparsest=dimensionality(W)[:, -1, :hidden].amin(-1),
        ),
        "sparsest_loss": compare(
            ratio["relu"][:, -1],
            unit="1",
            formula=f"loss of the ReLU model on {POINTS} new points over the linear optimum at the sparsest density",
            dense=ratio["relu"][:, 0],
            linear=ratio["linear"][:, -1],
            random_directions=ratio[RANDOM][:, -1],
        ),
        "antipodal_pairs_loss": without_interval(
            antipodal_pairs(importance, hidden, float(grids["relu"].densities[-1]))
            / float(importance[hidden:].sum())
            / variance(float(grids["relu"].densities[-1])),
            1,
            "1",
            "loss of the 2 m most important features laid out as antipodal pairs by hand, over the linear optimum",
        ),
        "sparsest_stored": compare(
            (norms(W) > HALF).double().sum(-1)[:, -1],
            unit="features",
            formula=f"||W_i|| > {HALF}, counted",
            dense=(norms(W) > HALF).double().sum(-1)[:, 0],
        ),
    }


def fresh_loss(grid: Grid, activation: Activation) -> Float[Tensor, "seed density"]:
    """The loss of chosen models on points that neither trained nor chose them, the same for all at a density. The
    sample that chooses among restarts is too small to compare with a number from theory."""
    W, b, _ = (one[:, :, 0] for one in grid.best())
    scale = grid.importance[:1].expand(len(W), -1)
    found = []
    for d, density in enumerate(grid.densities):
        points = batch(density[None], W.shape[-1], POINTS, 0, FRESH)
        data = Data(*(one.double() for one in points))
        found.append(evaluate(W[:, d], b[:, d], data, scale, activation).loss)
    return torch.stack(found, 1)


def antipodal_pairs(importance: Float[Tensor, " feature"], hidden: int, density: float) -> float:
    """Loss of two features in each hidden unit, w = (1, -1) and b = 0; all others get the best constant."""
    kept = 2 * hidden
    return float(importance[:kept].sum()) * density**2 / 6 + variance(density) * float(importance[kept:].sum())


if __name__ == "__main__":
    run_step(measure_features)
