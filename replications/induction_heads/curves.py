"""Curves along training: when a score changes, how abruptly, and whether the loss has a bump."""

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
