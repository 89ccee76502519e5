"""Step: sticky dimensionalities of n equally important features (section 4, uniform superposition).

D* = m / ||W||_F^2 against density: how much of the way between its neighbouring levels it spends at 1/2. D_i of every
stored feature: how many lie at the share of a regular arrangement. Controls: any other level of equal width; the linear
model on the same data; random directions with the norms of the trained columns; untrained weights; other densities.
The sum of the D_i is compared with the number of hidden dimensions: it cannot be larger (a theorem, checked on every
model), and a tutorial that bounds it by the number of features is far off.
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
from replications.superposition.geometry import HALF, checked_dimensionality, dims_per_feature, norms
from replications.superposition.grid import load_grid
from replications.superposition.tables import add_pair
from replications.superposition.training import initial

LEVELS = (3 / 4, 2 / 3, 1 / 2, 2 / 5, 3 / 8)  # tetrahedron, triangle, digon, pentagon, square antiprism
CLOSE = 0.02
ABOVE, BELOW = 0.75, 0.45  # halfway from 1 to 1/2, and from 1/2 to 2/5, the next regular arrangement
DRAWS = 20
LINK = 0.2  # |W_i . W_j| above which two features are drawn as linked


def measure_uniform(
    *, models: Path, seeds: list[int], polytope_densities: list[float], metrics: Path, table: Path, graphs: Path
) -> None:
    """Writes `metrics` (JSON), `table` (CSV, one row per activation, seed, density and feature) and `graphs` (CSV, one
    row per pair of linked features of the first seed)."""
    grids = {name: load_grid(models, name) for name in ("relu", "linear")}
    W = {name: grid.W[:, :, 0, 0] for name, grid in grids.items()}
    shares = {name: checked_dimensionality(one) for name, one in W.items()}
    dims = {name: dims_per_feature(one) for name, one in W.items()}
    densities = grids["relu"].densities
    dense, sparse = int(densities.argmax()), int(densities.argmin())
    found: dict[str, Metric] = {}
    text = "D* = m / ||W||_F^2"
    add_pair(
        found, "dense_dims", dims["relu"][:, dense], dims["relu"][:, sparse], "sparse", unit="dimensions", formula=text
    )
    add_pair(
        found, "sparse_dims", dims["relu"][:, sparse], dims["linear"][:, sparse], "linear", unit="dimensions",
        formula=text,
    )  # fmt: skip
    both = [plateau_shares(one, densities) for one in dims["relu"]]
    add_pair(
        found, "plateau", [one for one, _ in both], [other for _, other in both], "elsewhere", unit="share",
        formula=f"share of log density between D* = {ABOVE} and {BELOW} with D* within {CLOSE} of 1/2",
    )  # fmt: skip
    inside = (densities >= polytope_densities[0]) & (densities <= polytope_densities[1])
    random = [
        [matched(one[inside], 1000 * seed + k) for k in range(DRAWS)]
        for one, seed in zip(W["relu"], seeds, strict=True)
    ]
    add_pair(
        found,
        "clusters",
        [at_levels(share, one) for share, one in zip(shares["relu"][:, inside], W["relu"][:, inside], strict=True)],
        [float(np.mean([at_levels(checked_dimensionality(draw), draw) for draw in draws])) for draws in random],
        "random",
        unit="share",
        formula=f"stored features with D_i within {CLOSE} of 3/4, 2/3, 1/2, 2/5 or 3/8",
    )
    sparser = densities < polytope_densities[0]
    rest = [at_levels(share, one) for share, one in zip(shares["relu"][:, sparser], W["relu"][:, sparser], strict=True)]
    hidden = W["relu"].shape[-2]
    random = [[matched(one, 1000 * seed + k) for k in range(DRAWS)] for one, seed in zip(W["relu"], seeds, strict=True)]
    thin = [[draw[sparser] for draw in draws] for draws in random]
    blind = [float(np.mean([at_levels(checked_dimensionality(draw), draw) for draw in draws])) for draws in thin]
    text = "as clusters, at all sparser densities"
    add_pair(found, "clusters_sparser", rest, blind, "random", unit="share", formula=text)
    starts = [untrained(hidden, W["relu"].shape[-1], seed) for seed in seeds]
    raw = [at_levels(checked_dimensionality(one), one) for one in starts]
    text = f"as clusters, for {DRAWS} untrained W (Xavier-normal)"
    found["clusters_untrained"] = over_seeds(raw, unit="share", formula=text)
    add_pair(
        found,
        "efficiency",
        (shares["relu"].sum(-1) / hidden).amin(1),
        [
            float(np.mean([float((checked_dimensionality(d).sum(-1) / hidden).min()) for d in draws]))
            for draws in random
        ],
        "random",
        unit="1",
        formula="smallest sum_i D_i / m over densities",
    )
    write_metrics(metrics, found)
    rows = [
        [name, seed, density, i, float(size[k, d, i]), float(shares[name][k, d, i]), float(dims[name][k, d])]
        for name in W
        for size in [norms(W[name])]
        for k, seed in enumerate(seeds)
        for d, density in enumerate(densities.tolist())
        for i in range(W[name].shape[-1])
    ]  # fmt: skip
    write_table(
        table,
        rows,
        ["activation", "seed", "density", "feature", "norm", "dimensionality", "dims_per_feature"],
        digits=8,
    )
    products = W["relu"][0].mT @ W["relu"][0]
    links = [
        [density, i, j, float(products[d, i, j])]
        for d, density in enumerate(densities.tolist())
        for i, j in (products[d].abs() > LINK).nonzero().tolist()
        if i <= j
    ]
    write_table(graphs, links, ["density", "feature", "other", "product"], digits=8)


def plateau_shares(dims: Float[Tensor, " density"], densities: Float[Tensor, " density"]) -> tuple[float, float]:
    """Share of log density, between D* = `ABOVE` and `BELOW`, at 1/2; the largest share at any other level there.

    D* is interpolated linearly in log density. Densities run from dense to sparse.
    """
    fine = np.linspace(float(densities[0].log()), float(densities[-1].log()), 4001)
    values = np.interp(-fine, -densities.log().numpy(), dims.numpy())
    values = values[int((values < ABOVE).argmax()) :]
    values = values[: int((values < BELOW).argmax()) or None]
    others = [level for level in np.arange(BELOW, ABOVE, 0.005) if abs(level - 0.5) > 2 * CLOSE]
    at = [float((np.abs(values - level) <= CLOSE).mean()) for level in (0.5, *others)]
    return at[0], max(at[1:])


def at_levels(shares: Float[Tensor, "density feature"], W: Float[Tensor, "density hidden feature"]) -> float:
    """Share of the stored features (norm above 1/2; of all features, if none is stored) at one of the `LEVELS`."""
    near = (shares[..., None] - torch.tensor(LEVELS, dtype=shares.dtype)).abs().amin(-1) <= CLOSE
    kept = norms(W) > HALF
    return float((near[kept] if kept.any() else near).double().mean())


def untrained(hidden: int, features: int, seed: int) -> Float[Tensor, "draw hidden feature"]:
    """Weights as training begins with, `DRAWS` times."""
    return initial(DRAWS, hidden, features, torch.Generator().manual_seed(seed))[0]


def matched(W: Float[Tensor, "density hidden feature"], seed: int) -> Float[Tensor, "density hidden feature"]:
    """Columns with the norms of `W` in random directions."""
    random = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=W.dtype)
    return random * (norms(W) / norms(random))[..., None, :]


if __name__ == "__main__":
    run(measure_uniform)
