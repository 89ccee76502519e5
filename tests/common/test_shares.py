"""Wilson intervals of shares, and who gets one."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from common.core.metrics import Metric
from common.core.shares import wilson_interval, with_width
from common.core.statistics import over_clusters

NAMED = {"unit": "share", "formula": "f", "cluster": "words"}


@pytest.mark.parametrize(("hits", "draws"), [(0, 1), (0, 24), (1, 24), (12, 24), (23, 24), (24, 24), (140, 140)])
def test_wilson_interval_is_that_of_the_binomial_test(hits, draws):
    expected = binomtest(hits, draws).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / draws, draws) == pytest.approx((expected.low, expected.high), abs=1e-9)


def none_of(draws):
    """The textbook bound, z^2 / (n + z^2)."""
    square = norm.ppf(0.975) ** 2
    return square / (draws + square)


def test_none_of_n_has_the_textbook_bound():
    assert wilson_interval(0.0, 20) == (0, pytest.approx(none_of(20)))
    assert wilson_interval(1.0, 20) == (pytest.approx(1 - none_of(20)), 1)


def test_a_control_that_never_answers_gets_an_interval_and_the_effect_keeps_its_own():
    right, never = (np.arange(40) % 4 > 0).astype(float), np.zeros(40)
    before = over_clusters(right, np.arange(40), controls={"never": never}, **NAMED)
    found = with_width(before)
    assert (found.ci_low, found.ci_high) == (before.ci_low, before.ci_high)
    control = found.control("never")
    assert (control.value, control.ci_low, control.ci_high) == (0, 0, pytest.approx(none_of(40)))
    down = control.difference.value - control.difference.ci_low
    assert down == pytest.approx(np.hypot(found.value - found.ci_low, control.ci_high)), "the control may answer, too"
    assert control.difference.ci_high == before.control("never").difference.ci_high


def test_a_difference_of_shares_without_spread_goes_as_far_as_newcombe_says():
    before = over_clusters(np.ones(40), np.arange(40) // 2, controls={"never": np.zeros(40)}, **NAMED)
    bound = none_of(20)  # twenty clusters of two
    control = with_width(before).control("never")
    assert (control.difference.ci_low, control.difference.ci_high) == (pytest.approx(1 - 2**0.5 * bound), 1)


def test_a_single_item_and_a_gain_below_zero():
    flat = {"n": 1, "unit": "share", "formula": "f"}
    single = with_width(Metric(value=1.0, ci_low=1.0, ci_high=1.0, **flat))
    assert (single.ci_low, single.ci_high) == (pytest.approx(1 - none_of(1)), 1)
    loss = Metric(value=-0.5, ci_low=-0.5, ci_high=-0.5, **flat)
    assert with_width(loss) == loss
