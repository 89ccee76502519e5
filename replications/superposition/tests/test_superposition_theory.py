"""The exact optimum of the smallest model: closed forms, published onsets, independence of quadrature and starts."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from replications.superposition.measure_phases import CLASSES, classify, near_border
from replications.superposition.model import evaluate, sample
from replications.superposition.settings import Densities, Span
from replications.superposition.theory import (
    antipodal,
    best_model,
    border,
    expected_loss,
    forget_extra,
    forget_first,
    solve,
    variance,
)

SETTINGS = [(0.3, 0.2), (0.3, 0.9), (1.0, 0.5), (4.0, 0.05)]


@pytest.mark.parametrize(("r", "s"), SETTINGS)
def test_quadrature_gives_the_closed_forms_at_the_candidates(r, s):
    def at(w1, w2, b1, b2):
        return float(expected_loss(np.array([w1, w2]), np.array([b1, b2]), np.array(r), s))

    assert at(1.0, 0.0, 0.0, s / 2) == pytest.approx(forget_extra(r, s), rel=1e-9)
    assert at(0.0, 1.0, s / 2, 0.0) == pytest.approx(forget_first(s), rel=1e-9)
    assert at(1.0, -1.0, 0.0, 0.0) == pytest.approx(antipodal(r, s), rel=3e-3)  # a kink along x1 = x2
    assert forget_first(s) == pytest.approx(variance(s))


@pytest.mark.parametrize(("r", "s"), SETTINGS)
def test_quadrature_agrees_with_the_training_loss_on_many_points(r, s):
    w, b = np.array([0.9, -0.6]), np.array([-0.05, 0.1])
    data = sample(s, 2, 2**15, 5)
    importance = torch.tensor([[1.0, r]], dtype=torch.float64)
    for relu in (True, False):
        exact = float(expected_loss(w, b, np.array(r), s, relu=relu))
        trained = evaluate(
            torch.tensor(w)[None, None], torch.tensor(b)[None], data, importance, "relu" if relu else "linear"
        )
        assert float(trained.loss) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(("r", "s"), SETTINGS)
def test_the_optimum_is_no_worse_than_any_candidate_and_at_most_a_sixth_better(r, s):
    best, candidate = best_model(r, s), min(forget_extra(r, s), forget_first(s), antipodal(r, s))
    assert best.loss <= candidate * (1 + 1e-6)
    assert best.loss >= candidate / 1.17


@pytest.mark.parametrize(("r", "s"), [(0.3, 0.2), (0.5, 0.6), (0.1, 0.05)])
def test_exchanging_the_features_exchanges_the_solution(r, s):
    here, there = best_model(r, s), best_model(1.0 / r, s)
    assert there.loss == pytest.approx(here.loss / r, rel=1e-4)
    np.testing.assert_allclose(np.abs(there.w[::-1]), np.abs(here.w), atol=0.02)


@pytest.mark.parametrize(
    ("r", "onset"), [(0.05, 0.102), (0.1, 0.181), (0.2, 0.296), (0.3, 0.376), (0.5, 0.485), (0.7, 0.565), (0.9, 0.740)]
)
def test_the_second_feature_enters_at_the_published_density(r, onset):
    """Onset of |w2| > 0.3, from an earlier independent calculation; 3 % either way."""
    assert abs(best_model(r, onset * 1.03).w[1]) < 0.3 < abs(best_model(r, onset / 1.03).w[1])


def test_more_nodes_and_more_starts_change_nothing():
    extra = np.random.default_rng(0).normal(size=(20, 4))
    for r, s in [(0.3, 0.36), (0.9, 0.6), (3.0, 0.1)]:
        usual = best_model(r, s).loss
        assert best_model(r, s, count=64).loss == pytest.approx(usual, rel=5e-4)
        assert best_model(r, s, extra).loss == pytest.approx(usual, rel=1e-4)


def test_borders_are_where_the_closed_forms_cross():
    for r in (0.1, 0.5, 2.0, 10.0):
        other = forget_extra(r, 0.3) / variance(0.3) if r <= 1 else 1.0
        crossing = brentq(lambda s, r=r, other=other: antipodal(r, s) - other * variance(s), 0.01, 0.9)
        assert float(border(np.array([r]))[0]) == pytest.approx(crossing, rel=1e-6)
    assert float(border(np.array([1.0]))[0]) == pytest.approx(4 / 7)


def test_classes_ignore_signs():
    w = np.array([[1.0, 0.1], [-0.1, 1.0], [1.0, -1.0], [0.0, 0.2]])
    assert [CLASSES[k] for k in classify(w, 0.3)] == ["ignored", "dedicated", "superposed", "none"]


def test_cells_near_a_border_are_found():
    densities, importances = np.array([1.0, 0.9, 0.5, 0.45]), np.array([0.1, 1.0])
    classes = np.array([[1, 1], [3, 1], [3, 1], [3, 1]])
    near = near_border(classes, densities, importances, 0.15)
    assert near.tolist() == [[True, False], [True, False], [False, False], [False, False]]
    assert not near_border(classes, densities, importances, 0.0).any()


def test_a_column_of_the_exact_grid_is_its_mirror_image():
    rows = solve(Span(first=0.5, last=2.0, cells=2), Densities(first=0.5, last=0.3, cells=2))
    for importance, density, w1, w2, b1, b2, loss, *_ in rows:
        assert loss == pytest.approx(best_model(importance, density).loss, rel=1e-6)
        found = expected_loss(np.array([[w1, w2]]), np.array([[b1, b2]]), np.array([importance]), density)
        assert loss == pytest.approx(float(found[0]), rel=1e-6)


def test_the_closed_form_borders_are_where_losses_meet():
    for r in (0.2, 0.6):
        s = float(border(np.array([r]))[0])
        assert antipodal(r, s) == pytest.approx(forget_extra(r, s))
