"""Step: where the members of a set of features go (section 4).

`pairs`: two sets of two features in a plane. Correlated features become orthogonal: they are active together, so
interference between them would always hurt. Exclusive (anti-correlated) ones become antipodal: they never interfere.
`three_pairs`: dense, a correlated pair is stored as one direction (collapsed), as principal components would be.
Sparse, all six features have their own direction, a hexagon with the members of a pair side by side. `local_bases`: two
sets of ten in ten dimensions; the whole is in superposition, each set alone is nearly orthogonal. Independent features,
put into random sets, are the control. Pairs are measured on every restart that ends near the best loss. So the control
shows the pairings that chance gives, not the one that a sample happens to favour.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import (
    HALF,
    TOGETHER,
    canonical,
    checked_dimensionality,
    collapsed,
    norms,
    partner_cosines,
    within,
)
from replications.superposition.grid import Grid, load_grid
from replications.superposition.settings import Sets
from replications.superposition.tables import compare, gram_rows, nearest, random_orders

GOOD = 1.5  # loss over the best one; which of several equal pairings is best is sampling noise
KINDS = {
    "pairs": ("correlated", "exclusive", "independent"),
    "three_pairs": ("correlated", "independent"),
    "local_bases": ("correlated", "independent"),
}


class MeasureFiles(Files):
    sets_models: Path
    sets_metrics: Path
    sets_table: Path
    """columns in the plane"""
    collapse: Path
    """stored and collapsed pairs"""
    products: Path
    """W^T W of the local bases, first seed"""


def measure_geometry(files: MeasureFiles, settings: Sets, run: RunInfo) -> None:
    """Measures all arrangements."""
    grids = {
        name: {kind: load_grid(files.sets_models, f"{name}.{kind}") for kind in kinds} for name, kinds in KINDS.items()
    }
    for grid in itertools.chain.from_iterable(one.values() for one in grids.values()):
        checked_dimensionality(grid.W)
    metrics = (
        pair_metrics(grids["pairs"])
        | three_pair_metrics(grids["three_pairs"], settings.collapse_density)
        | local_base_metrics(grids["local_bases"])
    )
    write_metrics(files.sets_metrics, metrics)
    write_set_tables(files, grids, run.seeds)


def write_set_tables(files: MeasureFiles, grids: dict[str, dict[str, Grid]], seeds: list[int]) -> None:
    """Best models of the planes, collapsed pairs by density, and W^T W of the local bases."""
    planes, counts = [], []
    for name in ("pairs", "three_pairs"):
        for kind, grid in grids[name].items():
            best = grid.best().W[:, :, 0]
            for (k, seed), (d, s) in itertools.product(enumerate(seeds), enumerate(grid.densities.tolist())):
                W = best[k, d]
                placed, size = canonical(W), norms(W)
                planes += [[name, kind, seed, s, i, *placed[:, i].tolist(), float(size[i])] for i in range(W.shape[1])]
                if name == "three_pairs":
                    counts.append([kind, seed, s, int(collapsed(W)), int((size > HALF).sum())])
    names = ["arrangement", "kind", "seed", "density", "feature", "x", "y", "norm"]
    write_table(files.sets_table, planes, names, digits=8)
    write_table(files.collapse, counts, ["kind", "seed", "density", "collapsed", "stored"], digits=8)
    bases = grids["local_bases"]
    grams = [row for kind, grid in bases.items() for row in gram_rows(grid.best().W[0, 0, 0], kind)]
    write_table(files.products, grams, ["kind", "feature", "other", "product"], digits=8)


def pair_metrics(grids: dict[str, Grid]) -> dict[str, Metric]:
    """Two sets of two in a plane: right angles within correlated sets, opposite directions within exclusive ones."""
    text = f"mean within sets over stored pairs of restarts within {GOOD:g} times the best loss"
    cosines = {kind: good_cosines(grid, permuted=kind == "independent") for kind, grid in grids.items()}
    size = {kind: [float(seed.abs().mean()) for seed in found] for kind, found in cosines.items()}
    signed = {kind: [float(seed.mean()) for seed in found] for kind, found in cosines.items()}
    return {
        "correlated_cosine": compare(
            size["correlated"], unit="1", formula=f"|cos|, {text}", independent=size["independent"]
        ),
        "exclusive_cosine": compare(
            signed["exclusive"], unit="1", formula=f"cos, {text}", independent=signed["independent"]
        ),
    }


def three_pair_metrics(grids: dict[str, Grid], collapse_density: float) -> dict[str, Metric]:
    """Three sets of two in a plane: collapsed when dense, side by side in a hexagon when sparse."""
    densities = grids["correlated"].densities
    at, sparse = nearest(densities, collapse_density), int(densities.argmin())
    counts = {kind: collapsed(grid.best().W[:, :, 0]) for kind, grid in grids.items()}
    near = {
        kind: [float((one > 0).double().mean()) for one in good_cosines(grid, sparse, permuted=kind == "independent")]
        for kind, grid in grids.items()
    }
    return {
        "collapsed": compare(
            counts["correlated"][:, at],
            unit="pairs",
            formula=f"stored pairs with a cosine above {TOGETHER}, best models",
            sparse=counts["correlated"][:, sparse],
            independent=counts["independent"][:, at],
        ),
        "side_by_side": compare(
            near["correlated"],
            unit="share",
            formula=f"pairs less than 90 degrees apart, sparsest density, restarts within {GOOD:g} times the best loss",
            independent=near["independent"],
        ),
    }


def local_base_metrics(grids: dict[str, Grid]) -> dict[str, Metric]:
    """Two sets of ten in ten dimensions: how much of all overlap lies within sets."""
    inside = {kind: [float(np.mean([within(one) for one in seed[0, 0]])) for seed in grids[kind].W] for kind in grids}
    inside["independent"] = [
        float(np.mean([within(one[:, order]) for one in seed[0, 0] for order in random_orders(one.shape[1], k)]))
        for k, seed in enumerate(grids["independent"].W)
    ]
    text = "overlap (What_i . W_j)^2 with the own set over that with all other features, mean over restarts"
    return {
        "within_sets": compare(inside["correlated"], unit="share", formula=text, independent=inside["independent"]),
    }


def good_cosines(grid: Grid, density: int = 0, *, permuted: bool = False) -> list[Float[Tensor, " pair"]]:
    """`partner_cosines` of the pairs that good restarts store, for every seed.

    `permuted` pairs the features at random, `ORDERS` times: right for independent features, whose pairs are none.
    """
    found = []
    for k, (models, loss) in enumerate(zip(grid.W[:, density, 0], grid.loss[:, density, 0], strict=True)):
        W = models[loss <= GOOD * loss.min()]
        W = torch.cat([W[..., order] for order in random_orders(W.shape[-1], k)]) if permuted else W
        size = norms(W)
        found.append(partner_cosines(W)[torch.minimum(size[..., 0::2], size[..., 1::2]) > HALF])
    return found


if __name__ == "__main__":
    run_step(measure_geometry)
