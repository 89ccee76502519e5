"""Dimensionality: identities of the definition, regular arrangements, invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.errors import UserError
from replications.superposition import geometry
from replications.superposition.geometry import (
    canonical,
    checked_dimensionality,
    dimensionality,
    dims_per_feature,
    norms,
    overlaps,
    stored,
    superposition,
)
from replications.superposition.tables import nearest, worst_gap


def matrices():
    def build(shape_and_seed):
        hidden, features, rank, seed = shape_and_seed
        generator = torch.Generator().manual_seed(seed)
        left = torch.randn(hidden, min(rank, hidden), generator=generator, dtype=torch.float64)
        scale = torch.randn(features, generator=generator, dtype=torch.float64).exp()
        return left @ torch.randn(left.shape[1], features, generator=generator, dtype=torch.float64) * scale

    return st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 6), st.integers(0, 10**6)).map(build)


@given(matrices())
@settings(max_examples=60, deadline=None)
def test_shares_lie_between_0_and_1_and_sum_to_at_most_the_rank(W):
    shares = checked_dimensionality(W)
    assert float(shares.min()) >= 0
    assert float(shares.max()) <= 1 + 1e-9
    assert float(shares.sum()) <= int(torch.linalg.matrix_rank(W)) + 1e-9


@given(matrices(), st.integers(0, 1000), st.floats(0.5, 3.0))
@settings(max_examples=30, deadline=None)
def test_rotation_and_permutation_change_nothing_and_scale_cancels(W, seed, scale):
    W = W + 0.2 * torch.sign(W)  # no norm at the threshold for forgotten features
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(W.shape[0], W.shape[0], generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(W.shape[1], generator=generator)
    torch.testing.assert_close(dimensionality(rotation @ W), dimensionality(W))
    torch.testing.assert_close(superposition(rotation @ W), superposition(W))
    torch.testing.assert_close(dimensionality(W[:, order]), dimensionality(W)[order])
    kept = W.norm(dim=0) * min(scale, 1.0) > geometry.FORGOTTEN
    torch.testing.assert_close(dimensionality(scale * W)[kept], dimensionality(W)[kept])


def polygon(corners):
    angle = 2 * math.pi * torch.arange(corners, dtype=torch.float64) / corners
    return torch.stack([angle.cos(), angle.sin()])


@pytest.mark.parametrize("corners", [3, 4, 5, 6, 8])
def test_a_regular_polygon_shares_two_dimensions_equally(corners):
    shares = dimensionality(1.1 * polygon(corners))
    torch.testing.assert_close(shares, torch.full((corners,), 2.0 / corners, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [2, 3, 4, 5])
def test_a_simplex_is_a_tight_frame(dimensions):
    basis = torch.eye(dimensions + 1, dtype=torch.float64) - 1.0 / (dimensions + 1)
    expected = dimensions / (dimensions + 1)
    torch.testing.assert_close(dimensionality(basis), torch.full((dimensions + 1,), expected, dtype=torch.float64))


def test_triangle_times_digon_keeps_its_factors_apart():
    W = torch.zeros(3, 5, dtype=torch.float64)
    W[:2, :3] = polygon(3)
    W[2, 3:] = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(dimensionality(W), torch.tensor([2 / 3, 2 / 3, 2 / 3, 0.5, 0.5], dtype=torch.float64))


def test_orthogonal_features_do_not_overlap_and_a_pair_does():
    assert superposition(torch.eye(3, dtype=torch.float64)).tolist() == [0.0, 0.0, 0.0]
    assert superposition(torch.tensor([[1.0, -1.0]], dtype=torch.float64)).tolist() == [1.0, 1.0]
    assert float(dims_per_feature(torch.eye(2, dtype=torch.float64))) == 1.0
    assert float(dims_per_feature(polygon(5))) == pytest.approx(0.4)
    assert float(stored(0.95 * polygon(5))) == 5
    assert float(stored(0.85 * polygon(5))) == 0


def test_a_forgotten_feature_has_no_share():
    W = torch.tensor([[1.0, 0.05]], dtype=torch.float64)
    assert dimensionality(W)[1] == 0


def test_shares_equal_the_sum_over_all_pairs():
    W = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(dimensionality(W), norms(W).square() / overlaps(W).sum(-1))


def test_a_wrong_formula_is_caught(monkeypatch):
    monkeypatch.setattr(geometry, "dimensionality", lambda W: 1.1 * dimensionality(W))
    with pytest.raises(ArithmeticError, match="exceed the rank"):
        geometry.checked_dimensionality(polygon(5))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_canonical_pose_keeps_the_gram_matrix(seed):
    W = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pose = canonical(W)
    torch.testing.assert_close(pose.T @ pose, W.T @ W)
    assert float(pose[0, 0]) > 0
    assert float(pose[1, 0]) == pytest.approx(0.0, abs=1e-12)


def test_worst_gap_and_nearest_refuse_what_does_not_fit():
    assert float(worst_gap(torch.tensor([0.5, 0.0, 0.5, 0.45, 0.5]), [0.5, 0.5, 0.5, 0.5, 0.0])) == pytest.approx(0.05)
    with pytest.raises(UserError, match="n_features"):
        worst_gap(torch.tensor([0.5, 0.5]), [0.4] * 5)
    densities = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    assert nearest(densities, 0.3) == 1
    with pytest.raises(UserError, match="was not trained"):
        nearest(densities, 0.2)
