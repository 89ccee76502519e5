"""Intervals and comparisons. Every number a reader sees goes through this module; all intervals are two-sided 95 %.

Seeds: Student t over per-seed values. Prompts: bootstrap over clusters (templates, topics, documents), because prompts
of one cluster are not independent. Ratios are ratios of means, never means of ratios. A comparison pairs effect and
control: seed by seed, or by the same resampled clusters.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import stdtr, stdtrit

from common.core.metrics import Control, Estimate, Metric, Uncertainty

LEVEL = 0.95
BOOTSTRAP_DRAWS = 4000
LEAST_DRAWS = 20  # of a null distribution

Sample = Float[np.ndarray, " n"]


def over_seeds(
    values: Sequence[float], *, unit: str, formula: str, controls: Mapping[str, Sequence[float]] | None = None
) -> Metric:
    """Mean over seeds with a Student-t interval (n - 1 degrees of freedom).

    Args:
        values: one per seed, first seed first.
        unit: of `values`.
        formula: id or short text of what a value is.
        controls: for each control its values for the same seeds; differences are paired seed by seed.

    Raises:
        ValueError: fewer than 2 seeds, or a control with another number of seeds.
    """
    compared = []
    for name, others in (controls or {}).items():
        if len(others) != len(values):
            raise ValueError(f"the control '{name}' has {len(others)} seeds, the effect {len(values)}")
        difference = _student([a - b for a, b in zip(values, others, strict=True)])
        compared.append(Control(name=name, n=len(others), difference=difference, **_student(others).model_dump()))
    return Metric(
        **_student(values).model_dump(),
        n=len(values),
        unit=unit,
        formula=formula,
        uncertainty=Uncertainty(unit="seeds", count=len(values)),
        controls=compared,
    )


def _student(values: Sequence[float]) -> Estimate:
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least 2 seeds")
    array = np.asarray(values, dtype=np.float64)
    half = float(stdtrit(len(array) - 1, (1 + LEVEL) / 2) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return Estimate(value=mean, ci_low=mean - half, ci_high=mean + half, per_seed=[float(value) for value in array])


def over_clusters(
    values: Sample,
    clusters: Shaped[np.ndarray, " n"],
    *,
    unit: str,
    formula: str,
    cluster: str = "clusters",
    denominators: Sample | None = None,
    groups: Shaped[np.ndarray, " n"] | None = None,
    models: Shaped[np.ndarray, " n"] | None = None,
    few_models: bool = True,
    controls: Mapping[str, Sample | tuple[Sample, Sample]] | None = None,
    seed: int = 0,
) -> Metric:
    """Mean of `values`, or mean of `values` over mean of `denominators`, with a bootstrap over whole clusters.

    The percentile interval comes from `BOOTSTRAP_DRAWS` resamples of the clusters with replacement. With `models`, the
    models are resampled first and then the clusters of each: models that were trained anew differ by more than their
    prompts do. Resampling a few models gives too short intervals; they are at least as wide as that of t over models.

    Args:
        values: one per item.
        clusters: of each item.
        unit: of the value.
        formula: id or short text of what the value is.
        cluster: what a cluster is, as 'templates' or 'documents'.
        denominators: one per item, where the value is a ratio of means.
        groups: seed of each item, where a value per seed is wanted.
        models: trained model of each item; a cluster belongs to one model.
        few_models: False where `models` are many groups of another kind, whose resampling covers as it claims.
        controls: for each control its values for the same items, or its values and denominators; differences are taken
            within each resample.
        seed: of the resamples.

    Raises:
        ValueError: fewer than 2 clusters (the interval would have no width), a control with other items, or a cluster
            of two models.
    """
    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        raise ValueError("a clustered interval needs at least 2 clusters")
    owner = np.zeros(count, dtype=np.int64)
    if models is not None:
        labels = np.unique(models, return_inverse=True)[1]
        owner[index] = labels
        if (owner[index] != labels).any():
            raise ValueError("a cluster belongs to one model; name clusters by model")
    chosen = _resamples(owner.tobytes(), seed)

    def resampled(above: np.ndarray, below: np.ndarray | None) -> tuple[Estimate, np.ndarray, np.ndarray | None]:
        if len(above) != len(index):
            raise ValueError(
                f"{len(above)} values for {len(index)} items with a cluster; effect and controls need one each"
            )
        below = np.ones_like(above) if below is None else below
        above_sums, below_sums = (np.bincount(index, weights=part, minlength=count) for part in (above, below))
        draws = np.append(above_sums, 0)[chosen].sum(1) / np.append(below_sums, 0)[chosen].sum(1)
        each = _per_group(above, below, groups)
        value = float(above_sums.sum() / below_sums.sum())
        return _percentile(value, draws, None if each is None else each.tolist()), draws, each

    effect, draws, each = resampled(values, denominators)
    compared = []
    for name, given in (controls or {}).items():
        above, below = given if isinstance(given, tuple) else (given, None)
        control, others, of_control = resampled(above, below)
        paired = None if each is None or of_control is None else (each - of_control).tolist()
        difference = _percentile(effect.value - control.value, draws - others, paired)
        compared.append(Control(name=name, n=len(above), difference=difference, **control.model_dump()))
    found = Metric(
        **effect.model_dump(),
        n=len(values),
        unit=unit,
        formula=formula,
        uncertainty=Uncertainty(unit=cluster if models is None else f"{cluster} of models", count=count),
        controls=compared,
    )
    return (
        found
        if models is None or not few_models
        else _over_models(found, owner[index], values, denominators, controls or {})
    )


def _over_models(
    metric: Metric,
    labels: Int[np.ndarray, " n"],
    values: Sample,
    denominators: Sample | None,
    controls: Mapping[str, Sample | tuple[Sample, Sample]],
) -> Metric:
    """Every interval of the metric, those of its controls and of the differences, at least as wide as that of t over
    models. Of a ratio of means the standard error is that of its linear part (delta method)."""
    count = int(labels.max()) + 1
    if count < 2:
        return metric

    def parts(above: Sample, below: Sample | None) -> Float[np.ndarray, " model"]:
        """What each model adds to the value beyond its share; their sum is 0."""
        sums, under = np.bincount(labels, above), np.bincount(labels, below)
        return np.asarray((sums - sums.sum() / under.sum() * under) / under.mean())

    def wider(estimate: Estimate, own: Float[np.ndarray, " model"]) -> dict[str, float]:
        half = float(stdtrit(count - 1, (1 + LEVEL) / 2) * own.std(ddof=1) / np.sqrt(count))
        ends = min(estimate.ci_low, estimate.value - half), max(estimate.ci_high, estimate.value + half)
        return dict(zip(("ci_low", "ci_high"), ends, strict=True))

    effect, compared = parts(values, denominators), []
    for one in metric.controls:
        given = controls[one.name]
        other = parts(*given) if isinstance(given, tuple) else parts(given, None)
        difference = one.difference.model_copy(update=wider(one.difference, effect - other))
        compared.append(one.model_copy(update={"difference": difference, **wider(one, other)}))
    return metric.model_copy(update={"controls": compared, **wider(metric, effect)})


@lru_cache(maxsize=1)
def _resamples(owners: bytes, seed: int) -> Int[np.ndarray, "draw place"]:
    """Clusters of every resample: as many models as there are, with replacement, and of each as many clusters as it
    has. A place behind the last cluster of a small model holds the number of clusters, which stands for none.

    `owners` holds the model of each cluster. The last ones are kept: a table of heads asks for the same each time."""
    owner, draws = np.frombuffer(owners, dtype=np.int64), np.random.default_rng(seed)
    count, sizes = len(owner), np.bincount(owner)
    if len(sizes) == 1:
        return draws.integers(0, count, size=(BOOTSTRAP_DRAWS, count))
    members = np.full((len(sizes), sizes.max()), count)
    for model, size in enumerate(sizes):
        members[model, :size] = np.flatnonzero(owner == model)
    models = draws.integers(0, len(sizes), size=(BOOTSTRAP_DRAWS, len(sizes), 1))
    places = (draws.random((BOOTSTRAP_DRAWS, len(sizes), sizes.max())) * sizes[models]).astype(np.int64)
    kept = np.arange(sizes.max()) < sizes[models]
    return np.where(kept, members[models, places], count).reshape(BOOTSTRAP_DRAWS, -1)


def _per_group(above: np.ndarray, below: np.ndarray, groups: np.ndarray | None) -> np.ndarray | None:
    if groups is None:
        return None
    return np.array([above[groups == one].sum() / below[groups == one].sum() for one in np.unique(groups)])


def against_null(effect: Metric, draws: Float[np.ndarray, " draw"], *, name: str, formula: str = "") -> Metric:
    """An effect beside its null distribution: median and central 95 % range of `draws`, and effect - null.

    The difference goes as far as the interval of the effect and the range of the draws go, the squares of both ways
    added. ValueError for fewer than 20 draws.
    """
    null = null_distribution(draws, unit=effect.unit, formula=formula)
    value = effect.value - null.value
    low = value - np.hypot(effect.value - effect.ci_low, null.ci_high - null.value)
    high = value + np.hypot(effect.ci_high - effect.value, null.value - null.ci_low)
    difference = Estimate(value=value, ci_low=float(low), ci_high=float(high))
    return with_control(effect, name, null, difference)


def with_control(effect: Metric, name: str, control: Metric, difference: Estimate) -> Metric:
    """`effect` with one more control, where the difference is paired in a way of its own.

    Raises:
        pydantic.ValidationError: the difference is not effect - control.
        ValueError: effect and control have different units.
    """
    if effect.unit != control.unit:
        raise ValueError(f"'{name}' is measured in {control.unit}, the effect in {effect.unit}")
    paired = Estimate(**difference.model_dump(include=set(Estimate.model_fields)))
    one = Control(
        name=name,
        difference=paired,
        **control.model_dump(include={"value", "ci_low", "ci_high", "n", "per_seed", "formula"}),
    )
    return Metric(**{**effect.model_dump(), "controls": [*effect.controls, one]})


def holm(differences: Sequence[Estimate], degrees: Sequence[float]) -> list[float]:
    """Holm-corrected two-sided p of each difference from 0, by the t distribution of which its 95 % interval is made.

    t is the value over its standard error, which is half of the interval over the 97.5 % point. An interval of width 0
    gives p = 0, or 1 where the value is 0.

    Args:
        differences: with their intervals.
        degrees: of freedom of each; infinite for an interval by resampling, which is taken as normal.
    """
    errors = np.array([(one.ci_high - one.ci_low) / 2 for one in differences]) / stdtrit(degrees, (1 + LEVEL) / 2)
    values = np.abs([one.value for one in differences])
    ratios = np.divide(values, errors, out=np.where(values > 0, np.inf, 0.0), where=errors > 0)
    p = 2 * stdtr(degrees, -ratios)
    order = np.argsort(p)
    p[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(one) for one in p]


def from_draws(
    value: float, draws: Float[np.ndarray, " draw"], *, n: int, unit: str, formula: str,
    uncertainty: Uncertainty | None = None,
) -> Metric:  # fmt: skip
    """A value with the percentile interval of its resamples, widened to hold the value. `n`: what was resampled."""
    estimate = _percentile(value, draws)
    return Metric(**estimate.model_dump(), n=n, unit=unit, formula=formula, uncertainty=uncertainty)


def _percentile(value: float, draws: np.ndarray, per_seed: list[float] | None = None) -> Estimate:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, ci_low=min(float(low), value), ci_high=max(float(high), value), per_seed=per_seed)


def without_interval(value: float, n: int, unit: str, formula: str) -> Metric:
    """A number that is counted, not estimated, or has no interval of its own: its interval has no width."""
    value = float(value)
    return Metric(value=value, ci_low=value, ci_high=value, n=n, unit=unit, formula=formula)


def null_distribution(draws: Float[np.ndarray, " n"], *, unit: str, formula: str) -> Metric:
    """Median of a null distribution with its central 95 % range (not an interval of the median). >= 20 draws."""
    if len(draws) < LEAST_DRAWS:
        raise ValueError(f"a null distribution needs at least {LEAST_DRAWS} draws")
    low, middle, high = np.quantile(np.asarray(draws, dtype=np.float64), [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Metric(
        value=float(middle), ci_low=float(low), ci_high=float(high), n=len(draws), unit=unit, formula=formula,
        uncertainty=Uncertainty(unit="null draws", count=len(draws)),
    )  # fmt: skip


def auroc(scores: Shaped[np.ndarray, "..."], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "..."]:
    """Area under the ROC curve of scores [n], or of each column of [n, m].

    It is the share of pairs in which a positive row ranks above a negative one, ties counted half."""
    from scipy.stats import rankdata  # slow to import, and few steps need it

    count = int(positive.sum())
    above = rankdata(scores, axis=0)[positive].sum(0) - count * (count + 1) / 2
    return np.asarray(above / (count * (len(scores) - count)))
