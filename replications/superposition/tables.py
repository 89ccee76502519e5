"""What the measuring steps share: comparisons over seeds, densities by value, polygons, rank correlations, tables."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric
from common.core.statistics import over_seeds
from replications.superposition.geometry import canonical, dimensionality, norms, superposition
from replications.superposition.grid import Best, Grid

ORDERS = 50
PerSeed = Sequence[float] | Float[Tensor, " seed"] | Float[np.ndarray, " seed"]


def compare(values: PerSeed, *, unit: str, formula: str, **controls: PerSeed) -> Metric:
    """Mean over seeds beside its controls, which share the seeds."""
    listed = {name: [float(value) for value in control] for name, control in controls.items()}
    return over_seeds([float(value) for value in values], unit=unit, formula=formula, controls=listed)


def nearest(densities: Float[Tensor, " density"], wanted: float) -> int:
    """Index of `wanted` among the trained densities. UserError if it was not trained (1 % tolerance)."""
    index = int((densities.log() - torch.tensor(wanted, dtype=torch.float64).log()).abs().argmin())
    if abs(float(densities[index]) / wanted - 1.0) > 0.01:
        raise UserError(f"density {wanted:g} was not trained; add it to `densities` in the replication's config.yaml")
    return index


def worst_gap(shares: Float[Tensor, "*batch feature"], polygon: list[float]) -> Float[Tensor, "*batch"]:
    """Largest distance between the sorted dimensionalities and those of a polygon."""
    ordered = shares.sort(dim=-1, descending=True).values
    wanted = torch.tensor(sorted(polygon, reverse=True), dtype=shares.dtype)
    if wanted.shape[0] != ordered.shape[-1]:
        raise UserError(
            f"the polygon has {wanted.shape[0]} entries, the models {ordered.shape[-1]}; set n_features to fit"
        )
    return (ordered - wanted).abs().amax(-1)


def column_table(models: dict[str, tuple[Grid, Best]], seeds: list[int]) -> pd.DataFrame:
    """One row per activation, seed, density and feature of the best models; its column (x, y) in a common pose."""
    rows = []
    for activation, (grid, best) in models.items():
        for (s, seed), (d, density) in itertools.product(enumerate(seeds), enumerate(grid.densities.tolist())):
            W, b = best.W[s, d, 0], best.b[s, d, 0]
            placed = canonical(W)
            measures = (norms(W), superposition(W), dimensionality(W), b, grid.importance[0])
            rows += [
                [activation, seed, density, i, *placed[:, i].tolist(), *(float(one[i]) for one in measures)]
                for i in range(W.shape[1])
            ]
    names = ["activation", "seed", "density", "feature", "x", "y"]
    return pd.DataFrame(rows, columns=[*names, "norm", "superposition", "dimensionality", "bias", "importance"])


def column_rows(
    name: str,
    densities: Float[Tensor, " density"],
    W: Float[Tensor, "seed density hidden feature"],
    b: Float[Tensor, "seed density feature"],
    seeds: list[int],
) -> list[list[Any]]:
    """Rows (name, seed, density, feature, norm, superposition, bias) of models of any width."""
    measures = [norms(W), superposition(W), b]
    return [
        [name, seed, s, i, *(float(one[k, d, i]) for one in measures)]
        for (k, seed), (d, s), i in itertools.product(
            enumerate(seeds), enumerate(densities.tolist()), range(W.shape[-1])
        )
    ]


def gram_rows(W: Float[Tensor, "hidden feature"], *labels: Any) -> list[list[Any]]:
    """Rows (labels, feature, other, product) of W^T W."""
    return [[*labels, i, j, product] for i, line in enumerate((W.T @ W).tolist()) for j, product in enumerate(line)]


def random_orders(n_features: int, seed: int) -> list[Tensor]:
    """`ORDERS` random orders of the features."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(n_features, generator=generator) for _ in range(ORDERS)]


def rank_correlation(a: Float[np.ndarray, " density"], b: Float[np.ndarray, " density"]) -> float:
    """Spearman's; 0 if one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
