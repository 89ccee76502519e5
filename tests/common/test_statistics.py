"""Intervals: equal to scipy where scipy has them, right coverage where it has not, and sensible at the limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.core import statistics
from common.core.statistics import against_null, auroc, null_distribution, over_clusters, over_seeds, without_interval

FINITE = st.floats(-1e3, 1e3)


@given(st.lists(FINITE, min_size=2, max_size=12))
def test_over_seeds_is_scipys_t_interval(values):
    ours = over_seeds(values, unit="1", formula="mean")
    error = stats.sem(values)
    low, high = (
        stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error) if error > 0 else (ours.value,) * 2
    )
    assert ours.ci_low == pytest.approx(low, abs=1e-6)
    assert ours.ci_high == pytest.approx(high, abs=1e-6)
    assert ours.per_seed == values


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        over_seeds([1.0], unit="1", formula="mean")


@settings(max_examples=20)
@given(st.lists(FINITE, min_size=4, max_size=30), st.integers(2, 4))
def test_clustered_value_is_the_plain_mean(values, clusters):
    labels = np.arange(len(values)) % clusters
    ours = over_clusters(np.array(values), labels, unit="1", formula="mean")
    assert ours.value == pytest.approx(np.mean(values), abs=1e-9)
    assert ours.ci_low <= ours.value <= ours.ci_high


def test_clustering_widens_the_interval_when_clusters_differ():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 20)
    values = rng.normal(size=12)[labels] + 0.1 * rng.normal(size=240)
    clustered = over_clusters(values, labels, unit="1", formula="mean")
    single = over_clusters(values, np.arange(240), unit="1", formula="mean")
    assert clustered.ci_high - clustered.ci_low > 3 * (single.ci_high - single.ci_low)


def test_clustered_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(15), 4)
    hits = 0
    for _ in range(200):
        values = rng.normal(size=15)[labels] + rng.normal(size=60)
        ours = over_clusters(values, labels, unit="1", formula="mean")
        hits += ours.ci_low <= 0 <= ours.ci_high
    assert 0.86 <= hits / 200 <= 0.99  # percentile intervals of 15 clusters are a little narrow


def test_models_are_resampled_before_their_clusters(monkeypatch):
    """Equal to the literal version: models with replacement, then of each as many of its clusters as it has."""
    monkeypatch.setattr(statistics, "_over_models", lambda metric, *_: metric)
    models = np.repeat(["a", "b", "c"], [6, 4, 8])
    clusters = np.array([f"{model} {number // 2}" for number, model in enumerate(models)])
    values = np.where(models == "a", 1.0, np.where(models == "b", 0.0, 0.4)) + 0.1 * (np.arange(18) % 4)
    ours = over_clusters(values, clusters, unit="1", formula="mean", cluster="topics", groups=models, models=models)
    rng, draws = np.random.default_rng(5), []
    for _ in range(4000):
        drawn = []
        for model in rng.choice(["a", "b", "c"], 3):
            own = np.unique(clusters[models == model])
            drawn += [values[clusters == cluster] for cluster in rng.choice(own, len(own))]
        draws.append(np.concatenate(drawn).mean())
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.05)
    assert ours.uncertainty.unit == "topics of models"
    assert len(ours.per_seed) == 3


def test_models_that_differ_are_covered_only_if_they_are_resampled():
    rng = np.random.default_rng(2)
    models, clusters, hits = np.repeat(np.arange(5), 21), np.repeat(np.arange(35), 3), np.zeros(2)
    for _ in range(200):
        values = rng.normal(size=5)[models] + rng.normal(size=35)[clusters] + rng.normal(size=105)
        for at, whose in enumerate((models, None)):
            ours = over_clusters(values, clusters, unit="1", formula="mean", models=whose)
            hits[at] += ours.ci_low <= 0 <= ours.ci_high
    assert hits[0] / 200 > 0.92 > 0.72 > hits[1] / 200  # resampling five models alone would cover 0.85


def test_a_difference_to_null_draws_has_the_uncertainty_of_the_effect_too():
    """Five seeds that scatter from 0.1 to 1 do not beat draws between 0.2 and 0.4; five equal ones do."""
    draws = np.linspace(0.2, 0.4, 100)
    for values, beats in (([0.1, 0.2, 0.5, 0.95, 1.0], False), ([0.54, 0.55, 0.55, 0.55, 0.56], True)):
        found = against_null(over_seeds(values, unit="1", formula="f"), draws, name="null").control("null").difference
        assert found.value == pytest.approx(0.25)
        assert (found.ci_low > 0) == beats


def test_a_cluster_of_two_models_is_refused():
    with pytest.raises(ValueError, match="belongs to one model"):
        over_clusters(np.arange(4.0), np.array(list("aabb")), unit="1", formula="mean", models=np.array([0, 1, 1, 1]))


def test_a_ratio_is_a_ratio_of_means():
    above, below = np.array([1.0, 9.0, 1.0, 9.0]), np.array([1.0, 3.0, 1.0, 3.0])
    ours = over_clusters(above, np.array([0, 0, 1, 1]), denominators=below, unit="1", formula="ratio")
    assert ours.value == pytest.approx(20 / 8)  # the mean of ratios would be 2
    assert ours.ci_low == pytest.approx(ours.ci_high)


def test_one_cluster_is_refused():
    with pytest.raises(ValueError, match="at least 2 clusters"):
        over_clusters(np.ones(3), np.zeros(3), unit="1", formula="mean")


def test_null_distribution_gives_the_range_of_its_draws():
    ours = null_distribution(np.arange(101.0), unit="1", formula="draws")
    assert (ours.ci_low, ours.value, ours.ci_high) == pytest.approx((2.5, 50, 97.5))
    assert ours.n == 101
    with pytest.raises(ValueError, match="at least 20 draws"):
        null_distribution(np.arange(19.0), unit="1", formula="draws")


def test_an_exact_number_is_its_own_interval():
    found = without_interval(np.float64(0.25), 7, "share", "a count")
    assert (found.value, found.ci_low, found.ci_high, found.n, found.unit) == (0.25, 0.25, 0.25, 7, "share")


@given(st.lists(st.integers(0, 4), min_size=4, max_size=12), st.data())
@settings(max_examples=30, deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(values, data):
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    if positive.all() or not positive.any():
        return
    array = np.array(values, dtype=float)
    pairs = [(a > b) + 0.5 * (a == b) for a in array[positive] for b in array[~positive]]
    assert auroc(array, positive) == pytest.approx(np.mean(pairs))
    assert auroc(np.stack([array, -array], 1), positive) == pytest.approx([np.mean(pairs), 1 - np.mean(pairs)])
