"""Step: which of few features are stored, and how they share the hidden units (sections 1, 2 and 4).

`intro`: five features of falling importance in a plane; dense, intermediate and sparse. `polygons`: five equally
important ones; two digons at one density, a regular pentagon at a sparser one, each the other's control.
`many_features`: twenty in five units. The linear model must lose what theory says, v(s) sum_{i > m} I_i with
v(s) = s/3 - s^2/4: it keeps the m most important features. The ReLU model is no better when dense, far
better when sparse; and the least important of the stored features are superposed first, as antipodal pairs.

The best restart of each seed and density counts; the theorem sum_i D_i <= rank W is checked on all of them.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import (
    HALF,
    STORED,
    checked_dimensionality,
    dimensionality,
    dims_per_feature,
    norms,
    stored,
    superposition,
)
from replications.superposition.grid import Grid, load_grid
from replications.superposition.settings import Intro, MeasureFeatures, Polygons
from replications.superposition.tables import (
    column_rows,
    column_table,
    compare,
    gram_rows,
    nearest,
    restart_spread,
    worst_gap,
)
from replications.superposition.theory import variance

PENTAGON = [0.4] * 5
DIGONS = [0.5] * 4 + [0.0]
MOST_IMPORTANT = 3  # features asked whether they stay alone
ALONE, ANTIPODAL = 0.5, -0.95  # superposition above which a feature shares its direction; cosine of a pair
PERMUTATIONS = 200


class MeasureFiles(Files):
    intro_models: Path
    polygons_models: Path
    many_features_models: Path
    intro_metrics: Path
    intro_table: Path
    polygons_metrics: Path
    polygons_table: Path
    restarts: Path
    """loss of every restart over the best one of its cell"""
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
    write_table(files.restarts, restart_table(grid, run.seeds), digits=8)

    grids = {name: checked_grid(files.many_features_models, name) for name in ("relu", "linear")}
    write_metrics(files.many_features_metrics, many_metrics(grids, run.seeds))
    W = {name: grid.best().W[:, :, 0] for name, grid in grids.items()}
    rows = [row for name in W for row in column_rows(name, grids[name].densities, W[name], run.seeds)]
    names = ["activation", "seed", "density", "feature", "norm", "superposition", "dimensionality"]
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
    count, linear_count = stored(W), stored(linear)
    pair, dims, shared = pair_gap(W), dims_per_feature(W), most_superposed(W)
    gap = worst_gap(dimensionality(W), DIGONS)
    counted = f"||W_i|| > {STORED}, counted"
    return {
        "dense_stored": compare(count[:, dense], unit="features", formula=counted, sparse=count[:, sparse]),
        "dense_pair_gap": compare(
            pair[:, dense], unit="1", formula="max |(||W_i||) - (1, 1, 0, 0, ...)|", sparse=pair[:, sparse]
        ),
        "dense_dims_per_feature": compare(
            dims[:, dense], unit="dimensions", formula="D* = m / ||W||_F^2", sparse=dims[:, sparse]
        ),
        "dense_superposition": compare(
            shared[:, dense],
            unit="1",
            formula="max over stored i of sum_{j != i} (What_i . W_j)^2",
            sparse=shared[:, sparse],
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
        "linear_most_stored": compare(
            linear_count.amax(1), unit="features", formula="max over densities of the count, linear model"
        ),
    }


def pair_gap(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Largest distance of a norm from 1 for the two most important features (the first two), from 0 for the others."""
    n = norms(W)
    return torch.maximum((n[..., :2] - 1).abs().amax(-1), n[..., 2:].amax(-1))


def most_superposed(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Largest superposition among the features stored with full strength; 0 if there is none."""
    return torch.where(norms(W) > STORED, superposition(W), 0.0).amax(-1)


def polygon_metrics(grid: Grid, settings: Polygons) -> dict[str, Metric]:
    """Distance of the dimensionalities from those of a polygon, at its density and at that of the other polygon."""
    shares = dimensionality(grid.best().W)[:, :, 0]
    pentagon, digon = (nearest(grid.densities, at) for at in (settings.pentagon_density, settings.digon_density))
    gaps = {name: worst_gap(shares, polygon) for name, polygon in (("pentagon", PENTAGON), ("digon", DIGONS))}
    text = "max |sorted D_i - ({})|"
    total = "sum_i D_i, at most rank W"
    return {
        "pentagon_gap": compare(
            gaps["pentagon"][:, pentagon],
            unit="dimensions",
            formula=text.format(", ".join(f"{share:g}" for share in PENTAGON)),
            digon_density=gaps["pentagon"][:, digon],
        ),
        "pentagon_sum": compare(shares[:, pentagon].sum(-1), unit="dimensions", formula=total),
        "digon_gap": compare(
            gaps["digon"][:, digon],
            unit="dimensions",
            formula=text.format(", ".join(f"{share:g}" for share in DIGONS)),
            pentagon_density=gaps["digon"][:, pentagon],
        ),
        "digon_sum": compare(shares[:, digon].sum(-1), unit="dimensions", formula=total),
    }


def restart_table(grid: Grid, seeds: list[int]) -> pd.DataFrame:
    """One row per restart: features stored, its loss and the best one of its seed and density."""
    count, best = (norms(grid.W) > HALF).sum(-1), grid.best().loss
    rows = [
        [seed, density, r, int(count[s, d, 0, r]), float(grid.loss[s, d, 0, r]), float(best[s, d, 0])]
        for (s, seed), (d, density), r in itertools.product(
            enumerate(seeds), enumerate(grid.densities.tolist()), range(grid.loss.shape[-1])
        )
    ]
    return pd.DataFrame(rows, columns=["seed", "density", "restart", "stored", "loss", "best_loss"])


def many_metrics(grids: dict[str, Grid], seeds: list[int]) -> dict[str, Metric]:
    """Losses over the linear optimum, features stored, and the order of superposition.

    Densities run from dense to sparse; the second one is `middle`.
    """
    best, densities = {name: grid.best() for name, grid in grids.items()}, grids["relu"].densities
    importance, hidden = grids["relu"].importance[0], best["relu"].W.shape[-2]
    optimum = torch.tensor([variance(s) for s in densities.tolist()], dtype=torch.float64) * importance[hidden:].sum()
    ratio = {name: one.loss[:, :, 0] / optimum for name, one in best.items()}
    W = {name: one.W[:, :, 0] for name, one in best.items()}
    count = {name: (norms(one) > HALF).double().sum(-1) for name, one in W.items()}
    off = {name: off_place(one, hidden) for name, one in W.items()}
    dense, middle, sparse, sparsest = 0, 1, len(densities) - 2, len(densities) - 1
    far = {name: (one - 1).abs().amax(1) for name, one in ratio.items()}
    metrics = {
        "linear_off_theory": compare(
            far["linear"],
            unit="1",
            formula="largest |loss / optimum - 1| over densities, optimum v(s) sum_{i > m} I_i",
            relu=far["relu"],
        ),
        "linear_norms_off": compare(
            off["linear"].amax(1),
            unit="1",
            formula=f"largest | ||W_i|| - 1 | of the {hidden} most important features and ||W_i|| of the others",
            relu_sparsest=off["relu"][:, sparsest],
        ),
        "dense_stored": compare(count["relu"][:, dense], unit="features", formula=f"||W_i|| > {HALF}"),
    }
    for name, at in (("sparse", sparse), ("sparsest", sparsest)):
        metrics[f"{name}_loss"] = compare(
            ratio["relu"][:, at],
            unit="1",
            formula=f"loss of the ReLU model over the linear optimum at the {name} density",
            dense=ratio["relu"][:, dense],
            linear=ratio["linear"][:, at],
        )
        metrics[f"{name}_stored"] = compare(
            count["relu"][:, at],
            unit="features",
            formula=f"||W_i|| > {HALF}, counted",
            linear=count["linear"][:, at],
            dense=count["relu"][:, dense],
        )
    shared, kept = superposition(W["relu"]), norms(W["relu"]) > HALF
    pairs = [[float(antipodal_pairs(one)) for one in models] for models in W["relu"]]
    metrics["first_alone"] = compare(
        shared[:, middle, :MOST_IMPORTANT].mean(1),
        unit="1",
        formula=f"mean superposition of the {MOST_IMPORTANT} most important features at the middle density",
        other_stored=[
            float(one[which][MOST_IMPORTANT:].mean())
            for one, which in zip(shared[:, middle], kept[:, middle], strict=True)
        ],
    )
    metrics["middle_pairs"] = compare(
        [of_seed[middle] for of_seed in pairs],
        unit="pairs",
        formula=f"pairs of stored features with cosine below {ANTIPODAL}",
        dense=[of_seed[dense] for of_seed in pairs],
    )
    metrics["out_of_order"] = compare(
        [float(sum(map(disorder, one, which))) for one, which in zip(shared, kept, strict=True)],
        unit="features",
        formula="stored features alone in their dimension though a more important one shares its own, over densities",
        permuted_features=[
            permuted_disorder(one, which, seed) for one, which, seed in zip(shared, kept, seeds, strict=True)
        ],
    )
    metrics["restart_spread"] = restart_spread(grids["relu"].loss)
    return metrics


def off_place(W: Float[Tensor, "*batch hidden feature"], kept: int) -> Float[Tensor, "*batch"]:
    """Largest distance of a norm from 1, among the `kept` most important features, and from 0, among the others."""
    wanted = (torch.arange(W.shape[-1]) < kept).to(W.dtype)
    return (norms(W) - wanted).abs().amax(-1)


def antipodal_pairs(W: Float[Tensor, "hidden feature"]) -> int:
    """Pairs of stored features that point in opposite directions."""
    unit = W[:, norms(W) > HALF]
    cosines = (unit / norms(unit)).T @ (unit / norms(unit))
    return int((cosines < ANTIPODAL).sum()) // 2


def disorder(shared: Float[Tensor, " feature"], kept: Bool[Tensor, " feature"]) -> int:
    """Stored features that are alone while a more important stored one is superposed."""
    superposed = (shared[kept] > ALONE).tolist()
    return sum(not one for one in superposed[superposed.index(True) :]) if True in superposed else 0


def permuted_disorder(
    shared: Float[Tensor, "density feature"], kept: Bool[Tensor, "density feature"], seed: int
) -> float:
    """`disorder` summed over densities, mean over random orders of the stored features of each density."""
    generator = np.random.default_rng(seed)
    total = 0
    for one, which in zip(shared, kept, strict=True):
        values = one[which].numpy()
        for _ in range(PERMUTATIONS):
            order = torch.from_numpy(generator.permutation(values))
            total += disorder(order, torch.ones(len(order), dtype=torch.bool))
    return total / PERMUTATIONS


if __name__ == "__main__":
    run_step(measure_features)
