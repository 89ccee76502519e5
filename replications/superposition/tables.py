"""What the measuring steps share: finding a density, comparing dimensionalities with a polygon, tables for figures."""

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

SHUFFLES = 50
PERMUTATIONS = 100


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
    seeds: list[int],
) -> list[list[Any]]:
    """Rows (name, seed, density, feature, norm, superposition, dimensionality) of models of any width."""
    measures = [norms(W), superposition(W), dimensionality(W)]
    return [
        [name, seed, s, i, *(float(one[k, d, i]) for one in measures)]
        for (k, seed), (d, s), i in itertools.product(
            enumerate(seeds), enumerate(densities.tolist()), range(W.shape[-1])
        )
    ]


def orders(n_features: int, seed: int) -> list[Tensor]:
    """`SHUFFLES` random orders of the features."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(n_features, generator=generator) for _ in range(SHUFFLES)]


def restart_spread(*losses: Float[Tensor, "seed _density _row _restart"]) -> list[float]:
    """How far restarts end apart, per seed: median loss over that of the best restart, less 1, mean over all cells."""
    spreads = []
    for loss in losses:
        best = loss.amin(-1)
        spreads.append(((loss.quantile(0.5, dim=-1) - best) / best.clamp(min=1e-12)).flatten(1))
    return [float(one) for one in torch.cat(spreads, dim=1).mean(1)]


def add_restart_spread(found: dict[str, Metric], *losses: Float[Tensor, "seed _density _row _restart"]) -> None:
    """Adds `restart_spread`."""
    text = "median loss of the restarts over that of the best, less 1, mean over cells"
    found["restart_spread"] = over_seeds(restart_spread(*losses), unit="1", formula=text)


def rank_correlation(a: Float[np.ndarray, " density"], b: Float[np.ndarray, " density"]) -> float:
    """Spearman's; 0 if one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def permuted_correlations(a: Float[np.ndarray, " density"], b: Float[np.ndarray, " density"], seed: int) -> list[float]:
    """`rank_correlation` with `a` in random order, `PERMUTATIONS` times."""
    generator = np.random.default_rng(seed)
    return [rank_correlation(generator.permutation(a), b) for _ in range(PERMUTATIONS)]


def add_pair(
    found: dict[str, Metric],
    name: str,
    effect: Sequence[float] | Tensor,
    control: Sequence[float] | Tensor,
    control_name: str,
    *,
    unit: str,
    formula: str,
) -> None:
    """Adds an effect, its control and their difference, paired by seed: `x`, `x_<control>`, `x_minus_<control>`."""
    pairs = [(float(a), float(b)) for a, b in zip(effect, control, strict=True)]
    columns = {
        name: [a for a, _ in pairs],
        f"{name}_{control_name}": [b for _, b in pairs],
        f"{name}_minus_{control_name}": [a - b for a, b in pairs],
    }
    for key, values in columns.items():
        found[key] = over_seeds(values, unit=unit, formula=formula)
