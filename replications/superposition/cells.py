"""Cells of the n = 2, m = 1 phase diagram: their class, their exact neighbours, the exact table.

A class says which features a model stores, |w| above a stated norm: the extra feature is `ignored`, both are stored
(`superposed`), the extra one has the hidden unit to itself (`dedicated`), or `none` is stored.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from common.core.errors import UserError
from replications.superposition.grid import Best
from replications.superposition.theory import antipodal, expected_loss, forget_extra, forget_first

CLASSES = ("none", "ignored", "dedicated", "superposed")
SHUFFLES = 100
SUPERPOSED = CLASSES.index("superposed")


def classify(w: Float[np.ndarray, "*batch 2"], stored_norm: float) -> Int[np.ndarray, "*batch"]:
    """Index into `CLASSES` for weights (w1, w2)."""
    kept = np.abs(w) > stored_norm
    return np.asarray(kept[..., 0].astype(np.int64) + 2 * kept[..., 1])


def candidate_class(importance: float, density: float) -> int:
    """Class of the best of the three closed-form candidates."""
    losses = {
        "ignored": forget_extra(importance, density),
        "dedicated": forget_first(density),
        "superposed": antipodal(importance, density),
    }
    return CLASSES.index(min(losses, key=losses.__getitem__))


def near_border(
    classes: Int[np.ndarray, "density importance"],
    densities: Float[np.ndarray, " density"],
    importances: Float[np.ndarray, " importance"],
    band: float,
) -> Bool[np.ndarray, "density importance"]:
    """Cells from which a change of density or importance by at most the factor 1 + band reaches another class."""
    near = np.zeros(classes.shape, dtype=bool)
    for axis, values in ((0, densities), (1, importances)):
        close = np.abs(np.log(values[:, None] / values[None, :])) <= np.log1p(band) + 1e-9
        moved = np.moveaxis(classes, axis, 0)
        differs = moved[:, None] != moved[None, :]
        mask = close.reshape(*close.shape, *[1] * (moved.ndim - 1))
        near |= np.moveaxis((differs & mask).any(1), 0, axis)
    return near


def exact_losses(
    best: Best, densities: Float[np.ndarray, " density"], importances: Float[np.ndarray, " row"], *, relu: bool
) -> Float[np.ndarray, "seed density row"]:
    """Expected loss of trained models by quadrature, so that no sampling noise enters the comparison."""
    w, b = best.W[..., 0, :].numpy(), best.b.numpy()
    r = np.broadcast_to(importances, w.shape[:1] + importances.shape)
    columns = [expected_loss(w[:, d], b[:, d], r, float(s), relu=relu) for d, s in enumerate(densities)]
    return np.stack(columns, axis=1)


def agreement(
    found: Int[np.ndarray, "density importance"],
    truth: Int[np.ndarray, "density importance"],
    far: Bool[np.ndarray, "density importance"],
) -> float:
    """Share of the cells in `far` that have the true class."""
    return float((found == truth)[far].mean())


def shuffled_agreement(
    found: Int[np.ndarray, "density importance"],
    truth: Int[np.ndarray, "density importance"],
    far: Bool[np.ndarray, "density importance"],
    seed: int,
) -> list[float]:
    """`agreement` with the true classes in random order, `SHUFFLES` times."""
    generator = np.random.default_rng(seed)
    return [float((found[far] == generator.permutation(truth[far])).mean()) for _ in range(SHUFFLES)]


def read_exact(path: Path, shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "density importance"]]:
    """Columns of the exact table as grids. UserError if the table belongs to another grid."""
    table = pd.read_csv(path)
    if len(table) != shape[0] * shape[1]:
        raise UserError(f"{path} has {len(table)} cells, the trained grid {shape[0] * shape[1]}; delete it and rerun")
    ordered = table.sort_values(["density", "importance"], ascending=[False, True])
    return {str(name): ordered[name].to_numpy().reshape(shape) for name in ordered.columns}
