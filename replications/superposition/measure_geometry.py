"""Step: where the members of a set of features go, and when a rarer feature leaves the pentagon (section 4).

`pairs`: two sets of two features in a plane. Correlated features become orthogonal: they are active together, so
interference between them would always hurt. Exclusive (anti-correlated) ones become antipodal: they never interfere.
`three_pairs`: dense, a correlated pair is stored as one direction (collapsed), as principal components would be;
sparse, all six features have their own direction, a hexagon with the members of a pair side by side. `local_bases`:
two sets of ten in ten dimensions; the whole is in superposition, each set alone is nearly orthogonal. Independent
features, put into random sets, are the control. Pairs are measured on every restart that ends near the best loss, so
that the control shows the pairings that chance gives, and not the one that a sample happens to favour.

`rarer_feature`: two branches among all restarts: `pentagon`, all five features stored, and `digons`, the four common
ones stored and the rare one dropped. Their best losses cross with different slopes, a first-order transition. The digon
branch has a closed form, 2 s^2 / 3 + v(s rho): two antipodal pairs and the variance of the feature that is dropped. The
paper's figure puts the change at about 2.5 times rarer.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
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
from replications.superposition.settings import MeasureGeometry
from replications.superposition.tables import column_table, compare, gram_rows, nearest, random_orders, restart_spread
from replications.superposition.theory import variance

GOOD = 1.5  # loss over the best one; which of several equal pairings is best is sampling noise
KINDS = {
    "pairs": ("correlated", "exclusive", "independent"),
    "three_pairs": ("correlated", "independent"),
    "local_bases": ("correlated", "independent"),
}
PAPER = 0.4  # 2.5 times rarer
NEAR = 1.7  # factor of the ratio over which slopes are fitted

ByRatio = Float[np.ndarray, " ratio"]


class MeasureFiles(Files):
    sets_models: Path
    sets_metrics: Path
    sets_table: Path
    """columns in the plane"""
    collapse: Path
    """stored and collapsed pairs"""
    products: Path
    """W^T W of the local bases, first seed"""
    rarer_models: Path | None = None
    rarer_metrics: Path | None = None
    rarer_table: Path | None = None
    """best loss of each branch"""
    rarer_columns: Path | None = None


def measure_geometry(files: MeasureFiles, settings: MeasureGeometry, run: RunInfo) -> None:
    """Measures the parts that were trained."""
    grids = {
        name: {kind: load_grid(files.sets_models, f"{name}.{kind}") for kind in kinds} for name, kinds in KINDS.items()
    }
    for grid in itertools.chain.from_iterable(one.values() for one in grids.values()):
        checked_dimensionality(grid.W)
    lossy = [grid.loss for one in grids.values() for kind, grid in one.items() if kind != "exclusive"]
    metrics = (
        pair_metrics(grids["pairs"])
        | three_pair_metrics(grids["three_pairs"], settings.sets.collapse_density)
        | local_base_metrics(grids["local_bases"])
        | {"restart_spread": restart_spread(*lossy)}  # exclusive features can be stored without any loss: no ratio
    )
    write_metrics(files.sets_metrics, metrics)
    write_set_tables(files, grids, run.seeds)
    if (
        settings.rarer_feature
        and files.rarer_models
        and files.rarer_metrics
        and files.rarer_table
        and files.rarer_columns
    ):
        grid, density = load_grid(files.rarer_models, "relu"), settings.rarer_feature.training.density
        write_metrics(files.rarer_metrics, rarer_metrics(grid, density))
        write_table(files.rarer_table, branch_table(grid, density, run.seeds), digits=8)
        columns = column_table({"relu": (grid, grid.best())}, run.seeds).rename(columns={"density": "ratio"})
        write_table(files.rarer_columns, columns.to_numpy().tolist(), list(columns.columns), digits=8)


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
    stored = {kind: (norms(grid.best().W[:, 0, 0]) > HALF).double().sum(-1) for kind, grid in grids.items()}
    text = "overlap (What_i . W_j)^2 with the own set over that with all other features, mean over restarts"
    return {
        "within_sets": compare(inside["correlated"], unit="share", formula=text, independent=inside["independent"]),
        "local_bases_stored": compare(
            stored["correlated"],
            unit="features",
            formula=f"||W_i|| > {HALF}, counted",
            independent=stored["independent"],
        ),
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


def branches(grid: Grid) -> dict[str, tuple[Float[np.ndarray, "seed ratio"], Int[np.ndarray, "seed ratio"]]]:
    """Of each branch the best loss (infinite where no restart ended there), and how many restarts ended there."""
    stored, loss = norms(grid.W)[:, :, 0] > HALF, grid.loss[:, :, 0]
    kinds = {"pentagon": stored.all(-1), "digons": stored[..., :-1].all(-1) & ~stored[..., -1]}
    return {
        name: (torch.where(mask, loss, torch.inf).amin(-1).numpy(), mask.sum(-1).numpy())
        for name, mask in kinds.items()
    }


def digon_theory(grid: Grid, density: float) -> ByRatio:
    """2 s^2 / 3 + v(s rho)."""
    return np.array([2 * density**2 / 3 + variance(density * ratio) for ratio in grid.densities.numpy()])


def rarer_metrics(grid: Grid, density: float) -> dict[str, Metric]:
    """Where and how the branches cross, and what happens to the rare feature."""
    shares = checked_dimensionality(grid.W)[:, :, 0]
    ratios, theory = grid.densities.numpy(), digon_theory(grid, density)
    pentagon, digons = (loss for loss, _ in branches(grid).values())
    best = grid.loss[:, :, 0].argmin(-1)[..., None, None].expand(-1, -1, 1, shares.shape[-1])
    falls = [-(one[1:] - one[:-1]) for one in shares.gather(2, best).squeeze(2)]
    crossings = [crossing(ratios, *pair) for pair in zip(pentagon, digons, strict=True)]
    at = int(np.abs(np.log(ratios / PAPER)).argmin())
    equal = pentagon[:, 0] / theory[0]
    return {
        "crossing": compare(
            [1 / ratio for ratio, _, _ in crossings], unit="times rarer", formula="1 / rho, losses equal"
        ),
        "kink": compare(
            [kink for _, kink, _ in crossings],
            unit="1",
            formula="d log L / d log rho where the branches cross: digons minus pentagon",
            within_pentagon=[bend for _, _, bend in crossings],
        ),
        "snap": compare(
            [float(one[:, -1].max()) for one in falls],
            unit="dimensions",
            formula="largest fall of D between neighbouring ratios, best models, the rare feature",
            other_features=[float(one[:, :-1].mean(1).max()) for one in falls],
        ),
        "digon_theory": compare(
            digons[:, -1] / theory[-1],
            unit="1",
            formula="loss of the branch over 2 s^2 / 3 + v(s rho) at the rarest ratio",
            equal_densities_pentagon=equal,
        ),
        "paper_crossing": compare(
            pentagon[:, at] / theory[at],
            unit="1",
            formula="best pentagon's loss over the digons' closed form, where the paper has the change",
            equal_densities=equal,
        ),
    }


def branch_table(grid: Grid, density: float, seeds: list[int]) -> pd.DataFrame:
    """Best loss of each branch, and how many restarts ended there, one row per seed and ratio."""
    found, theory = branches(grid), digon_theory(grid, density)
    rows = [
        [seed, ratio, name, float(loss[k, d]), float(theory[d]), int(count[k, d])]
        for (k, seed), (d, ratio), (name, (loss, count)) in itertools.product(
            enumerate(seeds), enumerate(grid.densities.tolist()), found.items()
        )
        if np.isfinite(loss[k, d])
    ]
    return pd.DataFrame(rows, columns=["seed", "ratio", "branch", "loss", "digon_theory", "restarts"])


def crossing(ratios: ByRatio, pentagon: ByRatio, digons: ByRatio) -> tuple[float, float, float]:
    """Ratio of equal loss; there, the slope d log L / d log rho of digons minus pentagon, and the pentagon's own bend.

    Slopes are straight fits over the ratios within a factor `NEAR`, two at least. ArithmeticError if the
    branches never cross: the restarts found only one of them.
    """
    both = np.isfinite(pentagon) & np.isfinite(digons)
    x, gap = np.log(ratios[both]), np.log(pentagon[both] / digons[both])
    places = np.flatnonzero((gap[:-1] < 0) & (gap[1:] >= 0))
    if not len(places):
        raise ArithmeticError("pentagon and digons never cross; give rarer_feature more restarts or rarer ratios")
    k = int(places[0])
    at = float(x[k] + (x[k + 1] - x[k]) * gap[k] / (gap[k] - gap[k + 1]))

    def slope(loss: ByRatio, *, rarer: bool = True, denser: bool = True) -> float:
        side = np.log(ratios) - at
        kept = np.flatnonzero(
            np.isfinite(loss) & ((side < 1e-9) if not denser else (side > -1e-9) if not rarer else True)
        )
        kept = kept[np.abs(side[kept]).argsort()]
        chosen = kept[: max(2, int((np.abs(side[kept]) <= np.log(NEAR)).sum()))]
        return float(np.polyfit(np.log(ratios[chosen]), np.log(loss[chosen]), 1)[0])

    kink = slope(digons) - slope(pentagon)
    return float(np.exp(at)), kink, abs(slope(pentagon, rarer=False) - slope(pentagon, denser=False))


if __name__ == "__main__":
    run_step(measure_geometry)
