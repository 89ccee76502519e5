"""Paths of models through the space of per-token losses (Olsson et al. 2022, argument 1, per-token-loss analysis).

A model is a point: the vector of its losses on a fixed set of tokens. Training moves the point; on the first two
principal components of all points of all arms, the paths of all models but one-layer ones turn off where induction
heads form. The turn-off is how far the segment of the change (from its begin to its end) leads away from the direction
of the segment before it (from the end of warm-up to the begin of the change), as a multiple of that segment's length.
The angle alone would not do: a model that has stopped learning hardly moves, and what little it moves has a random
direction.
"""

import numpy as np
from jaxtyping import Float

from replications.induction_heads.curves import Transition


def turn_off(
    steps: Float[np.ndarray, " step"], path: Float[np.ndarray, "step component"], change: Transition, start: float
) -> float:
    """Way at right angles to the earlier direction over the way so far; 0 goes straight on or stands still."""
    ends = (start, change.begins, change.ends)
    first, begin, end = (path[min(int(np.searchsorted(steps, at)), len(steps) - 1)] for at in ends)
    before, during = begin - first, end - begin
    length = float(np.linalg.norm(before))
    if length == 0:
        return 0.0
    aside = during - (during @ before) / length**2 * before
    return float(np.linalg.norm(aside)) / length


def principal_components(
    points: Float[np.ndarray, "point token"], count: int = 2
) -> tuple[Float[np.ndarray, "point component"], Float[np.ndarray, " component"]]:
    """Coordinates on the first principal components, and the share of the variance of each. Signs are fixed."""
    centred = points - points.mean(0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(count), np.abs(right[:count]).argmax(1)])
    return left[:, :count] * sizes[:count] * signs, sizes[:count] ** 2 / np.maximum((sizes**2).sum(), 1e-30)
