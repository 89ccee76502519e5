"""Intervals of shares that came out the same everywhere, as 0 of all items, where resampling finds no spread.

Wilson 1927 (https://doi.org/10.1080/01621459.1927.10502953): the bounds are the shares of which what was seen is as
many standard errors away as the level asks for. A difference goes as far as its two shares go, the squares of both ways
added (Newcombe 1998, Statistics in Medicine 17, 873-890, method 10).
"""

from math import hypot, sqrt

from scipy.special import ndtri

from common.core.metrics import Estimate, Metric
from common.core.statistics import LEVEL


def wilson_interval(share: float, draws: int) -> tuple[float, float]:
    """Two-sided Wilson interval of a share of `draws` draws; its width is never 0."""
    z = float(ndtri((1 + LEVEL) / 2))
    middle, half = share + z * z / 2 / draws, z * sqrt(share * (1 - share) / draws + (z / 2 / draws) ** 2)
    scale = 1 + z * z / draws
    return 0.0 if share == 0 else (middle - half) / scale, 1.0 if share == 1 else (middle + half) / scale


def with_width(metric: Metric) -> Metric:
    """A share beside its controls, where each that has an interval without width gets the Wilson one, with as many
    draws as there are clusters.

    The difference of two shares one of which was widened goes at least as far as Newcombe's interval.
    """
    count = metric.n if metric.uncertainty is None else metric.uncertainty.count
    wide = metric.model_copy(update=_wilson(metric, count))
    controls = []
    for one in metric.controls:
        control, difference = one.model_copy(update=_wilson(one, count)), one.difference
        if (wide.ci_low, wide.ci_high, control.ci_low, control.ci_high) != (
            metric.ci_low, metric.ci_high, one.ci_low, one.ci_high,
        ):  # fmt: skip
            down = hypot(wide.value - wide.ci_low, control.ci_high - control.value)
            up = hypot(wide.ci_high - wide.value, control.value - control.ci_low)
            low, high = difference.value - down, difference.value + up
            ends = {"ci_low": min(low, difference.ci_low), "ci_high": max(high, difference.ci_high)}
            difference = difference.model_copy(update=ends)
        controls.append(control.model_copy(update={"difference": difference}))
    return Metric.model_validate(wide.model_copy(update={"controls": controls}).model_dump())


def _wilson(share: Estimate, draws: int) -> dict[str, float]:
    """The new ends of a share without width; none for a gain below 0, which is no share."""
    if share.ci_low < share.ci_high or not 0 <= share.value <= 1:
        return {}
    return dict(zip(("ci_low", "ci_high"), wilson_interval(share.value, draws), strict=True))
