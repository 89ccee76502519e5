"""Courses of training, and models of few points, on planted models: broken ones fail."""

import pytest
import torch

from common.core.step import RunInfo
from common.toys.settings import Optimisation
from replications.superposition.measure_double_descent import descent_metrics, irregularity, weighted_share
from replications.superposition.measure_learning import (
    across_sets,
    coincidence,
    level_metrics,
    octahedron_metrics,
    windows_of,
    within_sets,
)
from replications.superposition.model import Data
from replications.superposition.settings import CourseTraining, FewPoints
from replications.superposition.tests.planted import SEEDS, missed, ring
from replications.superposition.train_double_descent import descend, draw_points, hidden_vectors
from replications.superposition.train_learning import TrainFiles, follow, points_of, train_learning

OPTIMISATION = Optimisation(
    steps=40, batch=16, learning_rate=0.02, decay="constant", warmup=0, beta1=0.9, beta2=0.99, weight_decay=0.0,
    clip=100.0,
)  # fmt: skip


def stairs(drop_at, move_at=20):
    """Seeds whose first feature jumps to half a dimension at snapshot 60; the loss drops at `drop_at`, and the weights
    move most at `move_at`."""
    shares = torch.zeros(101, len(SEEDS), 3, dtype=torch.float64)
    shares[60:, :, 0] = 0.5
    loss = torch.linspace(1.2, 1.0, 101, dtype=torch.float64)[:, None].repeat(1, len(SEEDS))
    loss[:drop_at] += 0.8 + 0.01 * torch.arange(len(SEEDS))
    W = torch.eye(2, 3, dtype=torch.float64).repeat(101, len(SEEDS), 1, 1)
    W *= 1 + 0.001 * torch.arange(101)[:, None, None, None] ** 0.5
    W[:move_at] *= 0.5
    return level_metrics(W, shares, loss, SEEDS)


def shares_of_controls(metric):
    return {control.name: control.value for control in metric.controls}


def test_independent_features_are_also_compared_where_they_lie_together_most():
    W = torch.eye(3, 6, dtype=torch.float64).repeat(3, len(SEEDS), 1, 1, 1) + 0.1
    seeds = 0.01 * torch.arange(len(SEEDS), dtype=torch.float64)
    together = {
        "correlated": torch.tensor([[0.2], [0.9], [0.1]]) + seeds,
        "independent": torch.tensor([[0.7], [0.1], [0.3]]) + seeds,
    }
    found = octahedron_metrics({"correlated.W": W, "independent.W": W}, together)["together"]
    shares = shares_of_controls(found)
    assert found.value == pytest.approx(0.9 + float(seeds.mean()))
    assert shares["independent"] == pytest.approx(0.1 + float(seeds.mean()))
    assert shares["independent_at_its_largest"] == pytest.approx(0.7 + float(seeds.mean()))


@pytest.mark.parametrize(("drop_at", "wrong"), [(60, set()), (40, {"drops_at_jumps"}), (80, {"drops_at_jumps"})])
def test_drops_must_come_with_the_jumps(drop_at, wrong):
    metrics = stairs(drop_at)
    assert missed(metrics, drops_at_jumps=(0.4, None)) == wrong
    assert metrics["at_one_half"].value == 0.5  # two features are stored, one of them is at 1/2
    names = {"shifted_in_time", "permuted_windows", "first_windows", "largest_steps"}
    assert set(shares_of_controls(metrics["drops_at_jumps"])) == names


def test_jumps_that_are_the_largest_steps_of_the_weights_do_not_count():
    metrics = stairs(60, move_at=60)
    assert missed(metrics, drops_at_jumps=(0.4, None)) == {"drops_at_jumps"}
    controls = shares_of_controls(metrics["drops_at_jumps"])
    assert controls["largest_steps"] == pytest.approx(metrics["drops_at_jumps"].value)
    assert controls["first_windows"] < 0.2


def test_smooth_decays_without_levels_pass_the_bound_and_so_do_their_controls():
    scales = 9.0 + 0.2 * torch.arange(len(SEEDS), dtype=torch.float64)
    decay = (-torch.arange(101, dtype=torch.float64)[:, None] / scales).exp()
    W = (1 - 0.5 * decay)[..., None, None] * torch.eye(2, 3, dtype=torch.float64)
    metric = level_metrics(W, 0.5 * (1 - decay)[..., None].repeat(1, 1, 3), 1 + decay, SEEDS)["drops_at_jumps"]
    controls = shares_of_controls(metric)
    assert metric.value == pytest.approx(0.66, abs=0.02)
    assert controls["first_windows"] == pytest.approx(metric.value) == controls["largest_steps"]
    assert max(controls["shifted_in_time"], controls["permuted_windows"]) < 0.3, "blind to a smooth decay"
    assert missed({"drops_at_jumps": metric}, drops_at_jumps=(0.3, None)) == {"drops_at_jumps"}


def test_coincidence_is_the_share_of_the_fall():
    change = torch.zeros(20)
    change[[3, 7]] = 1.0
    fall = torch.ones(20)
    fall[3] = 6.0
    assert coincidence(change, fall) == pytest.approx(7 / 25)
    assert len(windows_of(torch.rand(101, 3), torch.rand(101))[0]) == 95


def test_stages_of_the_octahedron():
    together = torch.eye(3, dtype=torch.float64)[:, [0, 0, 0, 1, 1, 1]]
    assert float(within_sets(together)) == pytest.approx(1.0)
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)], dim=1).double()
    assert float(across_sets(octahedron)) == 1.0
    assert float(across_sets(octahedron[:, [0, 3, 1, 4, 2, 5]])) == pytest.approx(1 / 3)


def test_a_stream_draws_new_points_and_a_sample_does_not(tmp_path):
    settings = CourseTraining(
        n_features=6, n_hidden=2, arms=["stream", "correlated"], density=0.3, start_scale=0.1, copies=2, samples=64,
        snapshots=20, optimisation=OPTIMISATION,
    )  # fmt: skip
    run = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
    fixed = Data(torch.rand(2, 6, 64), torch.full((2, 64), 1 / 64))
    drawn, same = (points_of(arm, fixed, settings, run) for arm in ("stream", "correlated"))
    assert not torch.equal(drawn(0).x, drawn(1).x)
    assert same(0) is same(1) is fixed
    course = follow(same, fixed, settings, run)
    assert course["W"].shape == (21, 2, 2, 2, 6)
    assert float(course["loss"][-1].max()) < float(course["loss"][0].min())
    train_learning(TrainFiles(models=tmp_path / "models.safetensors"), settings, run)


BOUNDS = {"bump": (0.38, None), "features_many": (0.06, None), "points_irregular": (None, 0.1)}
POINTS = [4, 6, 50, 60]


def few_points(*, bump=1.0, decayed_bump=0.0, regular=True):
    """Points as regular polygons and features as a mess, until at many points the features form a pentagon."""
    mess = 0.1 * torch.randn(2, 60, generator=torch.Generator().manual_seed(0)).double()
    clean = torch.zeros(2, 60).double()
    clean[:, :5] = ring([0, 72, 144, 216, 288])
    W = torch.stack([mess, mess, mess, clean])[None, :, None].repeat(2, 1, 3, 1, 1)
    test = torch.tensor([1.0, 1.0, 1.0 + bump, 0.9]).double()[None, :, None].repeat(2, 1, 3) + 0.01 * torch.arange(3)
    test[1, 2] = 1.0 + decayed_bump
    tensors = {"test_loss": test, "constant_loss": torch.full((3,), 2.0, dtype=torch.float64)}
    shares = []
    for size in POINTS:
        crooked = ring([7 * k for k in range(size)])
        polygon = ring([360 * k / size for k in range(size)]) if regular else crooked
        tensors[f"hidden.{size}"] = polygon[None, None].repeat(2, 3, 1, 1)
        tensors[f"start.{size}"] = crooked[None].repeat(3, 1, 1)
        shares.append(weighted_share(tensors[f"hidden.{size}"]))
    metrics = descent_metrics(tensors, POINTS, weighted_share(W), torch.stack(shares, dim=1))
    return missed(metrics, **BOUNDS)


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        ({}, set()),
        ({"bump": 0.0}, {"bump"}),
        ({"decayed_bump": 0.5}, {"bump"}),
        ({"regular": False}, {"points_irregular"}),
    ],
)
def test_few_points_then_features(broken, wrong):
    assert few_points(**broken) == wrong


def test_points_have_norm_one_and_the_law_of_the_stream():
    settings = FewPoints(
        n_features=400, n_hidden=2, density=0.02, points=[3, 8, 12, 20], test_points=30, control_decay=1.0, n_seeds=2,
        optimisation=OPTIMISATION,
    )  # fmt: skip
    points = draw_points(settings, 3000, [1, 2], "cpu")
    torch.testing.assert_close(points.x.norm(dim=1), torch.ones(2, 3000))
    assert float((points.x > 0).float().mean()) == pytest.approx(0.02, rel=0.05)
    W = torch.randn(2, 2, 400)
    torch.testing.assert_close(hidden_vectors(W, points), W @ points.x)


def test_strong_decay_shrinks_weights_and_losses_are_of_the_points_kept():
    settings = FewPoints(
        n_features=20, n_hidden=2, density=0.1, points=[3, 8, 12, 20], test_points=30, control_decay=5.0, n_seeds=2,
        optimisation=OPTIMISATION,
    )  # fmt: skip
    found = descend(settings, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))
    assert found["W"].shape == (2, 4, 2, 2, 20)
    assert found["hidden.20"].shape == (2, 2, 2, 20)
    assert float(found["W"][1].norm()) < float(found["W"][0].norm())
    assert bool((found["train_loss"][0] < found["test_loss"][0]).all())
    assert bool((found["constant_loss"] < 1).all())  # the norm of the points, which answering nothing loses
    assert bool((found["constant_loss"] > 0.8).all())


def test_shares_are_equal_in_every_tight_frame_and_not_in_a_fan():
    for angles in ([0, 90, 180, 270], [0, 0, 90, 90], [0, 45, 90, 135]):
        assert float(irregularity(ring(angles))) == pytest.approx(0, abs=1e-6)
    assert float(irregularity(ring([0, 20, 40, 60]))) > 0.1


def test_weighted_share_ignores_scale():
    W = ring([0, 72, 144, 216, 288])
    assert float(weighted_share(W)) == pytest.approx(0.4)
    assert float(weighted_share(0.01 * W)) == pytest.approx(0.4)
