"""Phases of two features in one hidden unit: which of them is stored, cells near a border, a rule without optimum."""

import numpy as np
from jaxtyping import Bool, Float, Int

CLASSES = ("none", "ignored", "dedicated", "superposed")  # of the second feature


def classify(w: Float[np.ndarray, "*batch 2"], stored_norm: float) -> Int[np.ndarray, "*batch"]:
    """Index into `CLASSES` for weights (w1, w2): which features have a weight above `stored_norm`."""
    kept = np.abs(w) > stored_norm
    return np.asarray(kept[..., 0].astype(np.int64) + 2 * kept[..., 1])


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


def best_density_threshold(
    truth: Int[np.ndarray, "density importance"],
    compared: Bool[np.ndarray, "density importance"],
    densities: Float[np.ndarray, " density"],
    importances: Float[np.ndarray, " importance"],
) -> Int[np.ndarray, "density importance"]:
    """Classes by the rule 'superposed if density <= s, else the more important feature alone'. The s (or none) is the
    one that agrees best with `truth` in the compared cells."""
    alone = np.where(importances > 1, CLASSES.index("dedicated"), CLASSES.index("ignored"))
    rules = [np.where(densities[:, None] <= s, CLASSES.index("superposed"), alone) for s in (0.0, *densities)]
    return max(rules, key=lambda rule: float((rule == truth)[compared].mean()))
