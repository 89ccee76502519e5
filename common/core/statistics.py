"""Intervals. Every number a reader sees goes through one of these functions; all intervals are two-sided 95 %.

Seeds: Student t over per-seed values. Prompts: bootstrap over clusters (templates, topics, documents), because prompts
of one cluster are not independent. Ratios are ratios of means, never means of ratios.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import stdtrit

from common.core.metrics import Metric

LEVEL = 0.95
BOOTSTRAP_DRAWS = 4000


def over_seeds(values: list[float], *, unit: str, formula: str) -> Metric:
    """Mean over seeds with a Student-t interval (n - 1 degrees of freedom). ValueError for fewer than 2 seeds."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least 2 seeds")
    array = np.asarray(values, dtype=np.float64)
    half = float(stdtrit(len(array) - 1, (1 + LEVEL) / 2) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return Metric(
        value=mean,
        ci_low=mean - half,
        ci_high=mean + half,
        n=len(array),
        unit=unit,
        formula=formula,
        per_seed=[float(value) for value in array],
    )


def over_clusters(
    values: Float[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"],
    *,
    unit: str,
    formula: str,
    denominators: Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Metric:
    """Mean of `values` (or mean of `values` over mean of `denominators`) with a bootstrap over whole clusters.

    Percentile interval of `BOOTSTRAP_DRAWS` resamples of the clusters with replacement. ValueError for fewer than 2
    clusters: the interval would have no width.
    """
    below = np.ones_like(values) if denominators is None else denominators
    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        raise ValueError("a clustered interval needs at least 2 clusters")
    above_sums = np.bincount(index, weights=values, minlength=count)
    below_sums = np.bincount(index, weights=below, minlength=count)
    chosen = np.random.default_rng(seed).integers(0, count, size=(BOOTSTRAP_DRAWS, count))
    draws = above_sums[chosen].sum(1) / below_sums[chosen].sum(1)
    return from_draws(float(above_sums.sum() / below_sums.sum()), draws, n=len(values), unit=unit, formula=formula)


def from_draws(value: float, draws: Float[np.ndarray, " draw"], *, n: int, unit: str, formula: str) -> Metric:
    """A value with the percentile interval of its resamples, widened to hold the value. `n`: what was resampled."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = min(float(low), value), max(float(high), value)
    return Metric(value=value, ci_low=low, ci_high=high, n=n, unit=unit, formula=formula)


def exact(value: float, n: int, unit: str, formula: str) -> Metric:
    """A number that is counted, not estimated, or has no interval of its own: its interval has no width."""
    value = float(value)
    return Metric(value=value, ci_low=value, ci_high=value, n=n, unit=unit, formula=formula)


def null_distribution(draws: Float[np.ndarray, " n"], *, unit: str, formula: str) -> Metric:
    """Median of a null distribution with its central 95 % range (not an interval of the median). >= 20 draws."""
    if len(draws) < 20:
        raise ValueError("a null distribution needs at least 20 draws")
    low, middle, high = np.quantile(np.asarray(draws, dtype=np.float64), [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Metric(value=float(middle), ci_low=float(low), ci_high=float(high), n=len(draws), unit=unit, formula=formula)


def auroc(scores: Shaped[np.ndarray, "..."], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "..."]:
    """Area under the ROC curve of scores [n], or of each column of [n, m]: how often a positive row ranks above another
    one, ties counted half."""
    from scipy.stats import rankdata  # slow to import, and few steps need it

    count = int(positive.sum())
    above = rankdata(scores, axis=0)[positive].sum(0) - count * (count + 1) / 2
    return np.asarray(above / (count * (len(scores) - count)))
