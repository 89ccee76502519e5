"""Step: twenty features of falling importance in five hidden units (section 2, basic results).

The linear model must lose what the theory says, v(s) sum_{i > m} I_i with v(s) = s/3 - s^2/4: it keeps the m most
important features. The ReLU model is compared with that oracle: no better when dense, far better when sparse. And the
order: the least important of the stored features are superposed first, as antipodal pairs.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import HALF, checked_dimensionality, norms, superposition
from replications.superposition.grid import load_grid
from replications.superposition.tables import add_pair, add_restart_spread, column_rows
from replications.superposition.theory import variance

FIRST = 3  # the most important features, asked whether they stay alone
ALONE, ANTIPODAL = 0.5, -0.95  # superposition above which a feature shares its direction; cosine of a pair
PERMUTATIONS = 200


def measure_many(*, models: Path, seeds: list[int], metrics: Path, table: Path, products: Path) -> None:
    """Writes `metrics` (JSON), `table` and `products` (CSV; W^T W of the first seed). Densities run from dense to
    sparse; the second one is `middle`."""
    grids = {name: load_grid(models, name) for name in ("relu", "linear")}
    for grid in grids.values():
        checked_dimensionality(grid.W)
    best = {name: grid.best() for name, grid in grids.items()}
    densities = grids["relu"].densities
    importance, hidden = grids["relu"].importance[0], best["relu"].W.shape[-2]
    oracle = torch.tensor([variance(s) for s in densities.tolist()], dtype=torch.float64) * importance[hidden:].sum()
    ratio = {name: one.loss[:, :, 0] / oracle for name, one in best.items()}
    W = {name: one.W[:, :, 0] for name, one in best.items()}
    count = {name: (norms(one) > HALF).double().sum(-1) for name, one in W.items()}
    middle, sparse, sparsest = 1, len(densities) - 2, len(densities) - 1
    found: dict[str, Metric] = {}
    far = (ratio["linear"] - 1).abs().amax(1)
    text = "largest |loss / oracle - 1| over densities, oracle v(s) sum_{i > m} I_i"
    add_pair(found, "linear_off_theory", far, (ratio["relu"] - 1).abs().amax(1), "relu", unit="1", formula=text)
    off = {name: off_place(one, hidden) for name, one in W.items()}
    text = f"largest | ||W_i|| - 1 | of the {hidden} most important features and ||W_i|| of the others"
    pair = (off["linear"].amax(1), off["relu"][:, sparsest])
    add_pair(found, "linear_norms_off", *pair, "relu", unit="1", formula=f"{text} (control: sparsest density)")
    for name, at in (("sparse", sparse), ("sparsest", sparsest)):
        text = f"loss of the ReLU model over the linear oracle at the {name} density"
        add_pair(found, f"{name}_loss", ratio["relu"][:, at], ratio["relu"][:, 0], "dense", unit="1", formula=text)
        text = f"||W_i|| > {HALF}, counted"
        pair = (count["relu"][:, at], count["linear"][:, at])
        add_pair(found, f"{name}_stored", *pair, "linear", unit="features", formula=text)
    found["dense_stored"] = over_seeds(count["relu"][:, 0].tolist(), unit="features", formula=f"||W_i|| > {HALF}")
    shared = superposition(W["relu"])
    kept = norms(W["relu"]) > HALF
    others = [float(one[stored][FIRST:].mean()) for one, stored in zip(shared[:, middle], kept[:, middle], strict=True)]
    text = f"mean superposition at the middle density, the {FIRST} most important features (control: the stored others)"
    add_pair(found, "first_alone", shared[:, middle, :FIRST].mean(1), others, "others", unit="1", formula=text)
    pairs = [[float(antipodal_pairs(one)) for one in models_of_a_seed] for models_of_a_seed in W["relu"]]
    text = f"pairs of stored features with cosine below {ANTIPODAL}"
    add_pair(
        found, "middle_pairs", [p[middle] for p in pairs], [p[0] for p in pairs], "dense", unit="pairs", formula=text
    )
    text = "stored features alone in their dimension though a more important one shares its own, over densities"
    wrong = [float(sum(map(disorder, one, stored))) for one, stored in zip(shared, kept, strict=True)]
    null = [shuffled_disorder(one, stored, seed) for one, stored, seed in zip(shared, kept, seeds, strict=True)]
    add_pair(found, "out_of_order", wrong, null, "shuffled", unit="features", formula=text)
    add_restart_spread(found, grids["relu"].loss)
    write_metrics(metrics, found)
    frames = [column_rows(name, grids[name].densities, W[name], seeds) for name in W]
    rows = [row for rows in frames for row in rows]
    write_table(
        table, rows, ["activation", "seed", "density", "feature", "norm", "superposition", "dimensionality"], digits=8
    )
    grams = [
        [name, density, i, j, product]
        for name, one in W.items()
        for density, weights in zip(densities.tolist(), one[0], strict=True)
        for i, line in enumerate((weights.T @ weights).tolist())
        for j, product in enumerate(line)
    ]
    write_table(products, grams, ["activation", "density", "feature", "other", "product"], digits=8)


def off_place(W: Float[Tensor, "*batch hidden feature"], kept: int) -> Float[Tensor, "*batch"]:
    """Largest distance of a norm from 1, among the `kept` most important features, and from 0, among the others."""
    wanted = (torch.arange(W.shape[-1]) < kept).to(W.dtype)
    return (norms(W) - wanted).abs().amax(-1)


def antipodal_pairs(W: Float[Tensor, "hidden feature"]) -> int:
    """Pairs of stored features that point in opposite directions."""
    unit = W[:, norms(W) > HALF]
    cosines = (unit / norms(unit)).T @ (unit / norms(unit))
    return int((cosines < ANTIPODAL).sum()) // 2


def disorder(shared: Float[Tensor, " feature"], kept: Tensor) -> int:
    """Stored features that are alone while a more important stored one is superposed."""
    superposed = (shared[kept] > ALONE).tolist()
    return sum(not one for one in superposed[superposed.index(True) :]) if True in superposed else 0


def shuffled_disorder(shared: Float[Tensor, "density feature"], kept: Tensor, seed: int) -> float:
    """`disorder` summed over densities, mean over random orders of the stored features of each density."""
    generator = np.random.default_rng(seed)
    total = 0
    for one, stored in zip(shared, kept, strict=True):
        values = one[stored].numpy()
        for _ in range(PERMUTATIONS):
            order = torch.from_numpy(generator.permutation(values))
            total += disorder(order, torch.ones(len(order), dtype=torch.bool))
    return total / PERMUTATIONS


if __name__ == "__main__":
    run(measure_many)
