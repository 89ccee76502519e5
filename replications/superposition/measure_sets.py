"""Step: where the members of a set of features go (section 4, correlated features).

`pairs`: two sets of two features in a plane. Correlated features become orthogonal: they are active together, so
interference between them would always hurt. Exclusive (anti-correlated) ones become antipodal: they never interfere.
`three_pairs`: dense, a correlated pair is stored as one direction (collapsed), as principal components would be;
sparse, all six features have their own direction, a hexagon with the members of a pair side by side. `local_bases`:
two sets of ten in ten dimensions; the whole is in superposition, each set alone is nearly orthogonal.

Independent features, put into random sets, are the control everywhere. Pairs are measured on every restart that ends
near the best loss, so that the control shows the pairings that chance gives, and not the one that a sample happens to
favour.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import HALF, canonical, checked_dimensionality, norms, overlaps
from replications.superposition.grid import Grid, load_grid
from replications.superposition.tables import add_pair, add_restart_spread, nearest, orders

GOOD = 1.5  # loss over the best one; which of several equal pairings is best is sampling noise
TOGETHER = 0.95  # cosine above which a pair counts as one direction
KINDS = {
    "pairs": ("correlated", "exclusive", "independent"),
    "three_pairs": ("correlated", "independent"),
    "local_bases": ("correlated", "independent"),
}


def measure_sets(
    *,
    models: Path,
    seeds: list[int],
    collapse_density: float,
    metrics: Path,
    table: Path,
    collapse: Path,
    products: Path,
) -> None:
    """Writes `metrics` (JSON) and, as CSV, `table` (columns in the plane), `collapse` (stored and collapsed pairs) and
    `products` (W^T W of the local bases, first seed)."""
    grids = {name: {kind: load_grid(models, f"{name}.{kind}") for kind in kinds} for name, kinds in KINDS.items()}
    for grid in itertools.chain.from_iterable(one.values() for one in grids.values()):
        checked_dimensionality(grid.W)
    found: dict[str, Metric] = {}
    _pairs(found, grids["pairs"])
    _three_pairs(found, grids["three_pairs"], collapse_density)
    _local_bases(found, grids["local_bases"])
    lossy = [grid.loss for one in grids.values() for kind, grid in one.items() if kind != "exclusive"]
    add_restart_spread(found, *lossy)  # exclusive features can be stored without any loss: no ratio
    write_metrics(metrics, found)
    planes = [
        [name, kind, seed, s, i, *canonical(W)[:, i].tolist(), float(norms(W)[i])]
        for name in ("pairs", "three_pairs")
        for kind, grid in grids[name].items()
        for (k, seed), (d, s) in itertools.product(enumerate(seeds), enumerate(grid.densities.tolist()))
        for W in [grid.best().W[k, d, 0]]
        for i in range(W.shape[1])
    ]
    write_table(table, planes, ["arrangement", "kind", "seed", "density", "feature", "x", "y", "norm"], digits=8)
    counts = [
        [kind, seed, s, int(collapsed(W)), int((norms(W) > HALF).sum())]
        for kind, grid in grids["three_pairs"].items()
        for (k, seed), (d, s) in itertools.product(enumerate(seeds), enumerate(grid.densities.tolist()))
        for W in [grid.best().W[k, d, 0]]
    ]
    write_table(collapse, counts, ["kind", "seed", "density", "collapsed", "stored"], digits=8)
    grams = [
        [kind, i, j, float(value)]
        for kind, grid in grids["local_bases"].items()
        for W in [grid.best().W[0, 0, 0]]
        for i, row in enumerate(W.T @ W)
        for j, value in enumerate(row)
    ]
    write_table(products, grams, ["kind", "feature", "other", "product"], digits=8)


def _pairs(found: dict[str, Metric], grids: dict[str, Grid]) -> None:
    text = f"mean within sets over stored pairs of restarts within {GOOD:g} times the best loss"
    for name, kind in (("correlated_cosine", "correlated"), ("exclusive_cosine", "exclusive")):
        values = {
            one: [
                cosines.abs() if kind == "correlated" else cosines
                for cosines in good_cosines(grids[one], shuffled=one == "independent")
            ]
            for one in (kind, "independent")
        }
        effect, control = ([float(seed.mean()) for seed in values[one]] for one in (kind, "independent"))
        form = f"{'|cos|' if kind == 'correlated' else 'cos'}, {text}"
        add_pair(found, name, effect, control, "independent", unit="1", formula=form)


def _three_pairs(found: dict[str, Metric], grids: dict[str, Grid], collapse_density: float) -> None:
    densities = grids["correlated"].densities
    at, sparse = nearest(densities, collapse_density), int(densities.argmin())
    counts = {kind: collapsed(grid.best().W[:, :, 0]) for kind, grid in grids.items()}
    text = f"stored pairs with a cosine above {TOGETHER}, best models"
    dense, thin = counts["correlated"][:, at], counts["correlated"][:, sparse]
    add_pair(found, "collapsed", dense, thin, "sparse", unit="pairs", formula=text)
    found["collapsed_independent"] = over_seeds(counts["independent"][:, at].tolist(), unit="pairs", formula=text)
    text = f"pairs less than 90 degrees apart, sparsest density, restarts within {GOOD:g} times the best loss"
    near = {
        kind: [float((one > 0).double().mean()) for one in good_cosines(grid, sparse, shuffled=kind == "independent")]
        for kind, grid in grids.items()
    }
    add_pair(found, "side_by_side", near["correlated"], near["independent"], "independent", unit="share", formula=text)


def _local_bases(found: dict[str, Metric], grids: dict[str, Grid]) -> None:
    W = {kind: grid.best().W[:, 0, 0] for kind, grid in grids.items()}
    inside = {kind: [float(np.mean([within(one) for one in seed[0, 0]])) for seed in grids[kind].W] for kind in grids}
    inside["independent"] = [
        float(np.mean([within(one[:, order]) for one in seed[0, 0] for order in orders(one.shape[1], k)]))
        for k, seed in enumerate(grids["independent"].W)
    ]
    text = "overlap (What_i . W_j)^2 with the own set over that with all other features, mean over restarts"
    pair = (inside["correlated"], inside["independent"])
    add_pair(found, "within_sets", *pair, "independent", unit="share", formula=text)
    for kind, models in W.items():
        count = (norms(models) > HALF).double().sum(-1).tolist()
        found[f"local_bases_stored_{kind}"] = over_seeds(count, unit="features", formula=f"||W_i|| > {HALF}, counted")


def partner_cosines(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch set"]:
    """Cosine of the two members of every set of two; neighbours on the feature axis form a set."""
    unit = W / norms(W).clamp(min=1e-12)[..., None, :]
    return (unit[..., 0::2] * unit[..., 1::2]).sum(-2)


def good_cosines(grid: Grid, density: int = 0, *, shuffled: bool = False) -> list[Float[Tensor, " pair"]]:
    """`partner_cosines` of the pairs that good restarts store, for every seed.

    `shuffled` pairs the features at random, `SHUFFLES` times: right for independent features, whose pairs are none.
    """
    found = []
    for k, (models, loss) in enumerate(zip(grid.W[:, density, 0], grid.loss[:, density, 0], strict=True)):
        W = models[loss <= GOOD * loss.min()]
        W = torch.cat([W[..., order] for order in orders(W.shape[-1], k)]) if shuffled else W
        size = norms(W)
        found.append(partner_cosines(W)[torch.minimum(size[..., 0::2], size[..., 1::2]) > HALF])
    return found


def collapsed(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Number of pairs stored as one direction."""
    size = norms(W)
    stored = torch.minimum(size[..., 0::2], size[..., 1::2]) > HALF
    return ((partner_cosines(W) > TOGETHER) & stored).double().sum(-1)


def within(W: Float[Tensor, "hidden feature"]) -> float:
    """Share of all overlaps between different features that lies within sets; two sets of neighbours."""
    half = W.shape[1] // 2
    every = overlaps(W).clone().fill_diagonal_(0.0)
    return float((every[:half, :half].sum() + every[half:, half:].sum()) / every.sum())


if __name__ == "__main__":
    run(measure_sets)
