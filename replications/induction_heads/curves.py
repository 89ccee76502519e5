"""Curves along training: when a score changes, how abruptly, whether the loss has a bump, and where models turn off.

Olsson et al. 2022, argument 1. Per-token-loss analysis: a model is the vector of its losses on a fixed set of tokens,
and training moves it. On two principal components the paths of all models but one-layer ones turn off where induction
heads form. The turn-off is how far the segment of the change leads away from the direction of the segment before it. It
is a multiple of that segment's length. The angle alone would not do: what little a finished model moves has a random
direction.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SMALLEST_CHANGE = 1.0  # nats; a gain that ends below it has not changed phase
LAST = 3  # measurements whose mean counts as the end


class Transition(NamedTuple):
    """Steps at which a score passes 10, 50 and 90 % of its final value, interpolated between measurements."""

    begins: float
    middle: float
    ends: float

    @property
    def width(self) -> float:
        """Steps from 10 to 90 %."""
        return self.ends - self.begins


def transition(
    steps: Float[np.ndarray, " step"], score: Float[np.ndarray, " step"], *, smallest: float = SMALLEST_CHANGE
) -> Transition | None:
    """When `score` rises from 0 to its final value, or None if that value stays below `smallest`."""
    final = float(score[-LAST:].mean())
    if final < smallest:
        return None
    return Transition(*(first_crossing(steps, score, share * final) for share in (0.1, 0.5, 0.9)))


def first_crossing(steps: Float[np.ndarray, " step"], score: Float[np.ndarray, " step"], level: float) -> float:
    """The step at which `score` first reaches `level`, linear in between. The last step if it never does."""
    above = np.flatnonzero(score >= level)
    if len(above) == 0:
        return float(steps[-1])
    at = int(above[0])
    if at == 0:
        return float(steps[0])
    part = (level - score[at - 1]) / (score[at] - score[at - 1])
    return float(steps[at - 1] + part * (steps[at] - steps[at - 1]))


def plateau_ratio(found: Transition | None, warmup: int) -> float:
    """Steps between warm-up and the begin of the change over its 10-90 % width; 0 where nothing changes.

    Above 1 the model waits longer than it changes; a saturating curve without a plateau has a ratio near 0.
    """
    return 0.0 if found is None else max(0.0, found.begins - warmup) / found.width


def bump(steps: Float[np.ndarray, " step"], loss: Float[np.ndarray, " step"]) -> float:
    """How far a loss curve rises above its own lower convex hull, in nats; 0 for a convex curve."""
    return float((loss - convex_hull(steps, loss)).max())


def convex_hull(steps: Float[np.ndarray, " step"], loss: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """The largest convex curve below `loss`, at the same steps (monotone chain)."""
    kept: list[int] = []
    for i in range(len(steps)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            turn = (steps[b] - steps[a]) * (loss[i] - loss[a]) - (loss[b] - loss[a]) * (steps[i] - steps[a])
            if turn > 0:
                break
            kept.pop()
        kept.append(i)
    hull: np.ndarray = np.interp(steps, steps[kept], loss[kept])
    return hull


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
