"""What the measuring steps share: finding a density, comparing dimensionalities with a polygon, tables for figures."""

import itertools

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from replications.superposition.geometry import canonical, dimensionality, norms, superposition
from replications.superposition.grid import Best, Grid


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
            pose = canonical(W)
            measures = (norms(W), superposition(W), dimensionality(W), b, grid.importance[0])
            rows += [
                [activation, seed, density, i, *pose[:, i].tolist(), *(float(one[i]) for one in measures)]
                for i in range(W.shape[1])
            ]
    names = ["activation", "seed", "density", "feature", "x", "y"]
    return pd.DataFrame(rows, columns=[*names, "norm", "superposition", "dimensionality", "bias", "importance"])
