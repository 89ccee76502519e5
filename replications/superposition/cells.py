"""Cells of a phase diagram: their class, their exact neighbours, their loss, the exact table.

With n = 2 and m = 1 a class says which features a model stores, |w| above a norm: the extra feature is `ignored`,
both are stored (`superposed`), the extra one has the hidden unit to itself (`dedicated`), or `none` is stored. With
n = 3 and m = 2 it says whether the third feature is ignored, has a direction of its own, or points against another
stored one.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from common.core.errors import UserError
from replications.superposition.grid import Best
from replications.superposition.settings import Span
from replications.superposition.theory import (
    antipodal,
    expected_loss,
    forget_extra,
    forget_first,
    third_quadrature,
)

CLASSES = ("none", "ignored", "dedicated", "superposed")
THIRD_CLASSES = ("ignored", "dedicated", "superposed")
AGAINST = -0.5  # cosine below which the third feature shares a dimension with another one
THIRD_NODES = 20
PERMUTATIONS = 100
SUPERPOSED = CLASSES.index("superposed")


def spaced(span: Span) -> list[float]:
    """`span.cells` values from first to last, evenly spaced on a log scale; the ends are exact."""
    return [float(value) for value in np.geomspace(span.first, span.last, span.cells)]


def classify(w: Float[np.ndarray, "*batch 2"], stored_norm: float) -> Int[np.ndarray, "*batch"]:
    """Index into `CLASSES` for weights (w1, w2)."""
    kept = np.abs(w) > stored_norm
    return np.asarray(kept[..., 0].astype(np.int64) + 2 * kept[..., 1])


def classify_third(W: Float[np.ndarray, "*batch 2 3"], stored_norm: float) -> Int[np.ndarray, "*batch"]:
    """Index into `THIRD_CLASSES` of the third feature; other features below `stored_norm` are no company."""
    norms = np.linalg.norm(W, axis=-2)
    unit = W / np.maximum(norms, 1e-12)[..., None, :]
    cosines = np.where(norms[..., :2] > stored_norm, np.einsum("...h,...hf->...f", unit[..., 2], unit[..., :2]), 0.0)
    shared = cosines.min(-1) < AGAINST
    return np.asarray(np.where(norms[..., 2] <= stored_norm, 0, np.where(shared, 2, 1)))


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


def third_losses(
    W: Float[np.ndarray, "density row 2 3"],
    b: Float[np.ndarray, "density row 3"],
    densities: Float[np.ndarray, " density"],
    r: Float[np.ndarray, " row"],
    *,
    relu: bool,
) -> Float[np.ndarray, "density row"]:
    """Expected loss of one model per cell, with more nodes than the optimum was found with."""
    losses = []
    for W_s, b_s, s in zip(W, b, densities, strict=True):
        x, weight = third_quadrature(float(s), THIRD_NODES)
        output = np.einsum("rhf,rhg,gn->rfn", W_s, W_s, x) + b_s[..., None]
        error = (np.maximum(output, 0.0) if relu else output) - x
        each = error**2 @ weight
        losses.append(each[:, 0] + each[:, 1] + r * each[:, 2])
    return np.stack(losses)


def agreement(
    found: Int[np.ndarray, "density importance"],
    truth: Int[np.ndarray, "density importance"],
    far: Bool[np.ndarray, "density importance"],
) -> float:
    """Share of the cells in `far` that have the true class."""
    return float((found == truth)[far].mean())


def permuted_agreement(
    found: Int[np.ndarray, "density importance"],
    truth: Int[np.ndarray, "density importance"],
    far: Bool[np.ndarray, "density importance"],
    seed: int,
) -> list[float]:
    """`agreement` with the true classes in random order, `PERMUTATIONS` times."""
    generator = np.random.default_rng(seed)
    return [float((found[far] == generator.permutation(truth[far])).mean()) for _ in range(PERMUTATIONS)]


def read_exact(path: Path, shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "density importance"]]:
    """Columns of the exact table as grids. UserError if the table belongs to another grid."""
    table = pd.read_csv(path)
    if len(table) != shape[0] * shape[1]:
        raise UserError(f"{path} has {len(table)} cells, the trained grid {shape[0] * shape[1]}; delete it and rerun")
    ordered = table.sort_values(["density", "importance"], ascending=[False, True])
    return {str(name): ordered[name].to_numpy().reshape(shape) for name in ordered.columns}
