"""Courses of training, and models of few points, on planted models: broken ones fail."""

import pytest
import torch

from replications.superposition.measure_double_descent import (
    descent_metrics,
    irregularity,
    weighted_share,
    width_metrics,
)
from replications.superposition.measure_learning import across_sets, largest_jump, within_sets
from tests.fixtures.superposition_planted import missed, ring


def test_jumps_and_stages():
    shares = torch.zeros(101, 3, dtype=torch.float64)
    shares[60:, 0] = 0.5
    loss = torch.linspace(2.0, 1.0, 101, dtype=torch.float64)
    loss[60:] -= 0.3
    change, drop, both = largest_jump(shares, loss)
    assert change == both == 0.5
    assert drop > 10
    assert largest_jump(shares, torch.linspace(2.0, 1.0, 101, dtype=torch.float64))[2] == 0  # a jump without a drop
    smooth = torch.linspace(0, 0.5, 101, dtype=torch.float64)[:, None].expand(-1, 3)
    assert largest_jump(smooth, torch.linspace(2.0, 1.0, 101, dtype=torch.float64))[0] < 0.01
    together = torch.eye(3, dtype=torch.float64)[:, [0, 0, 0, 1, 1, 1]]
    assert float(within_sets(together)) == pytest.approx(1.0)
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)], dim=1).double()
    assert float(across_sets(octahedron)) == 1.0
    assert float(across_sets(octahedron[:, [0, 3, 1, 4, 2, 5]])) == pytest.approx(1 / 3)


BOUNDS = {
    "bump": (0.3, None),
    "bump_widths": (0.05, None),
    "features_many": (0.06, None),
    "points_irregular": (None, 0.1),
}
POINTS = [4, 6, 50, 60]


def few_points(*, bump=1.0, wide_bump=0.1, decayed_bump=0.0, regular=True):
    """Points as regular polygons and features as a mess, until at many points the features form a pentagon."""
    mess = 0.1 * torch.randn(2, 60, generator=torch.Generator().manual_seed(0)).double()
    clean = torch.zeros(2, 60).double()
    clean[:, :5] = ring([0, 72, 144, 216, 288])
    W = torch.stack([mess, mess, mess, clean])[None, :, None].repeat(2, 1, 3, 1, 1)
    test = torch.tensor([1.0, 1.0, 1.0 + bump, 0.9]).double()[None, :, None].repeat(2, 1, 3) + 0.01 * torch.arange(3)
    test[1, 2] = 1.0
    sweep = torch.stack([test, test - 1.0], dim=-1)
    sweep[:, 2, :, 1] = 0.01 * torch.arange(3) + torch.tensor([wide_bump, decayed_bump])[:, None]
    tensors = {"test_loss": test[..., None]}
    shares = []
    for size in POINTS:
        crooked = ring([7 * k for k in range(size)])
        polygon = ring([360 * k / size for k in range(size)]) if regular else crooked
        tensors[f"hidden.{size}"] = polygon[None, None, None].repeat(2, 3, 1, 1, 1)
        tensors[f"start.{size}"] = crooked[None, None].repeat(3, 1, 1, 1)
        shares.append(weighted_share(tensors[f"hidden.{size}"][:, :, 0]))
    metrics = descent_metrics(tensors, POINTS, weighted_share(W), torch.stack(shares, dim=1))
    return missed(metrics | width_metrics(sweep, [2, 3], POINTS), **BOUNDS)


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        ({}, set()),
        ({"bump": 0.0}, {"bump", "bump_widths"}),
        ({"wide_bump": 0.0}, {"bump_widths"}),
        ({"decayed_bump": 0.1}, {"bump_widths"}),
        ({"regular": False}, {"points_irregular"}),
    ],
)
def test_few_points_then_features(broken, wrong):
    assert few_points(**broken) == wrong


def test_shares_are_equal_in_every_tight_frame_and_not_in_a_fan():
    for angles in ([0, 90, 180, 270], [0, 0, 90, 90], [0, 45, 90, 135]):
        assert float(irregularity(ring(angles))) == pytest.approx(0, abs=1e-6)
    assert float(irregularity(ring([0, 20, 40, 60]))) > 0.1


def test_weighted_share_ignores_scale():
    W = ring([0, 72, 144, 216, 288])
    assert float(weighted_share(W)) == pytest.approx(0.4)
    assert float(weighted_share(0.01 * W)) == pytest.approx(0.4)
