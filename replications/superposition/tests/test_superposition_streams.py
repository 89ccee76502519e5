"""Streams, sets and the written gradient: exact moments, literal laws, refusals."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from common.core.errors import UserError
from common.core.files import read_yaml
from common.core.settings import ROOT, checked
from common.toys.settings import Optimisation
from common.toys.training import learning_rate, train
from replications.superposition.geometry import checked_dimensionality
from replications.superposition.model import evaluate, sample, sample_sets
from replications.superposition.settings import FeatureTraining, Settings, SetTraining
from replications.superposition.streams import batch, stream_job, unwaited_points, written_loss
from replications.superposition.training import initial

OPTIMISATION = Optimisation(
    steps=60,
    batch=64,
    learning_rate=0.02,
    decay="cosine",
    warmup=5,
    beta1=0.9,
    beta2=0.99,
    weight_decay=0.0,
    clip=100.0,
)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_a_batch_has_the_moments_of_independent_features(density, as_on_a_gpu):
    n_features, s = 12, torch.tensor([density], dtype=torch.float64)
    first, second, pairs, total = 0.0, 0.0, 0.0, 0.0
    for step in range(8):
        data = batch(s, n_features, 2000, 3, step)
        if as_on_a_gpu:
            draw = torch.Generator().manual_seed(step)
            data.x[:, :, 1:] = unwaited_points(s, n_features, 2000, draw, signed=False)
            signed = unwaited_points(s, n_features, 2000, draw.manual_seed(step), signed=True)
            torch.testing.assert_close((signed + 1) / 2 * (signed != 0), data.x[:, :, 1:], rtol=0, atol=1e-6)
        x, weight = data.x[0].double(), data.weight[0].double()
        assert float(weight[0]) == pytest.approx((1 - density) ** n_features, abs=1e-6)
        assert bool((x[:, 1:].amax(0) > 0).all())
        total += float(weight.sum()) / 8
        first = first + x @ weight / 8
        second = second + x**2 @ weight / 8
        pairs = pairs + (x * weight) @ x.T / 8
    assert total == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(first, density / 2, rtol=0.15)
    np.testing.assert_allclose(second, density / 3, rtol=0.15)
    off = pairs[~torch.eye(n_features, dtype=torch.bool)]
    assert float(off.mean()) == pytest.approx(density**2 / 4, rel=0.1)


def test_batches_are_decided_by_seed_and_step():
    s = torch.tensor([0.05, 0.5], dtype=torch.float64)
    same, again = batch(s, 6, 32, 1, 2), batch(s, 6, 32, 1, 2)
    assert torch.equal(same.x, again.x)
    assert not torch.equal(same.x, batch(s, 6, 32, 1, 3).x)
    assert not torch.equal(same.x, batch(s, 6, 32, 2, 2).x)


def test_members_of_correlated_sets_are_active_together():
    x, weight = (one[0] for one in sample_sets(0.2, 3, 2, 4096, 0, "correlated"))
    active = x > 0
    assert torch.equal(active[0::2], active[1::2])
    assert float((active.double() @ weight).mean()) == pytest.approx(0.2, rel=0.02)
    assert float(np.corrcoef(x[:2, active[0]])[0, 1]) == pytest.approx(0.0, abs=0.05)


def test_members_of_exclusive_sets_are_never_active_together():
    x, weight = (one[0] for one in sample_sets(0.3, 2, 2, 4096, 0, "exclusive"))
    active = (x > 0).double()
    assert float((active[0::2] * active[1::2]).sum()) == 0
    np.testing.assert_allclose(active @ weight, 0.15, rtol=0.05)
    assert float((active[0] * active[2]) @ weight) == pytest.approx(0.15**2, rel=0.15)


def test_a_rarer_feature_is_rarer():
    densities = torch.tensor([0.2, 0.2, 0.05], dtype=torch.float64)
    x, weight = (one[0] for one in sample(densities, 3, 4096, 0))
    np.testing.assert_allclose((x > 0).double() @ weight, densities, rtol=0.05)
    even = sample(torch.full((3,), 0.2, dtype=torch.float64), 3, 64, 0)
    torch.testing.assert_close(even.x, sample(0.2, 3, 64, 0).x)


def test_hidden_relu_loss_and_gradient_equal_autograd():
    data = sample(0.5, 5, 64, 0)
    W, b = initial(3, 2, 5, torch.Generator().manual_seed(0))
    W, b = W.requires_grad_(), (b + 0.1).requires_grad_()
    importance = torch.rand(3, 5, dtype=torch.float64)
    hidden = torch.einsum("imf,fs->ims", W, data.x[0]).relu()
    output = (torch.einsum("imf,ims->ifs", W, hidden) + b[..., None]).relu()
    loss = (importance[..., None] * (data.x - output) ** 2 * data.weight[:, None]).sum((1, 2))
    loss.sum().backward()
    found = evaluate(W.detach(), b.detach(), data, importance, "relu_hidden")
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.grad_W, W.grad)
    torch.testing.assert_close(found.grad_b, b.grad)


def test_the_written_gradient_reaches_autograd():
    data = sample(0.3, 4, 32, 0)
    W, b = (one.requires_grad_() for one in initial(2, 2, 4, torch.Generator().manual_seed(0)))
    importance = torch.ones(2, 4, dtype=torch.float64)
    (torch.tensor([3.0, 1.0]) * written_loss({"W": W, "b": b}, data, importance)).sum().backward()
    found = evaluate(W.detach(), b.detach(), data, importance, "relu")
    scale = torch.tensor([3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(W.grad, scale[:, None, None] * found.grad_W)
    torch.testing.assert_close(b.grad, scale[:, None] * found.grad_b)


def job(seeds):
    ones = torch.ones(8, dtype=torch.float64)
    return stream_job(
        [0.4], ones, 2, optimisation=OPTIMISATION, seeds=seeds, device="cpu",
        snapshots_at=[OPTIMISATION.steps],
    )  # fmt: skip


def test_a_stream_trains_and_seeds_do_not_see_each_other(tmp_path):
    both = train(job([0, 1]), OPTIMISATION, folder=tmp_path)
    alone = train(job([1]), OPTIMISATION, folder=tmp_path)
    torch.testing.assert_close(both.snapshots["W"][-1, 1], alone.snapshots["W"][-1, 0], rtol=1e-4, atol=1e-4)
    assert float(both.losses[-10:].mean()) < float(both.losses[:10].mean())
    checked_dimensionality(both.snapshots["W"][-1].double())


def test_the_rate_falls_along_half_a_cosine():
    rates = [learning_rate(OPTIMISATION, step) for step in range(OPTIMISATION.steps)]
    assert rates[5] == pytest.approx(0.02)
    assert rates[5 + 55 // 2] == pytest.approx(0.01, rel=0.05)
    assert 0 < rates[-1] < 1e-4
    constant = OPTIMISATION.model_copy(update={"decay": "constant"})
    assert learning_rate(constant, 59) == 0.02


def test_too_few_features_are_refused():
    effort = {"restarts": 1, "samples": 16, "evaluation_samples": 16, "steps": 1}
    features = {"n_features": 3, "n_hidden": 3, "importance_decay": 1.0, "control_restarts": 0, "densities": [1.0, 0.5]}
    with pytest.raises(ValidationError, match="3 features fit into 3 hidden units"):
        FeatureTraining(**effort, **features, activations=["relu"])
    sets = {"n_sets": 2, "members": 2, "n_hidden": 4, "kinds": ["correlated", "independent"], "densities": [0.1]}
    with pytest.raises(ValidationError, match="4 features fit into 4 hidden units"):
        SetTraining(**effort, **sets)


@pytest.mark.parametrize(
    ("key", "value"), [("importance_decay", 0.0), ("densities", [1.0, 1.5]), ("densities", [0.0, 0.1]), ("restarts", 0)]
)
def test_settings_out_of_range_are_refused(key, value):
    good = {
        "restarts": 1, "samples": 16, "evaluation_samples": 16, "steps": 1, "n_features": 5, "n_hidden": 2,
        "importance_decay": 0.9, "control_restarts": 0, "random_restarts": 0,
        "densities": [1.0, 0.5], "activations": ["relu"],
    }  # fmt: skip
    assert FeatureTraining(**good)
    with pytest.raises(ValidationError):
        FeatureTraining(**{**good, key: value})


GRID = {"first": 1.0, "last": 0.01, "cells": 40}
WIDE = r"'double_descent.training.n_hidden': 10 features fit into 12 hidden units; .* \(found 12\)"


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("intro", {"n_features": 2}, r"'intro.training.n_hidden': 2 features fit into 2 hidden units; .* \(found 2\)"),
        ("intro", {"importance_decay": 0.0}, r"'intro.training.importance_decay': .*greater than 0 \(found 0.0\)"),
        ("intro", {"densities": [1.5, 0.1]}, r"'intro.training.densities.0': .*less than or equal to 1 \(found 1.5\)"),
        ("uniform", {"densities": [0.0, 0.1, 0.2]}, r"'uniform.training.densities.0': .*greater than 0 \(found 0.0\)"),
        ("polygons", {"restarts": 0}, r"'polygons.training.restarts': .*greater than or equal to 1 \(found 0\)"),
        ("intro", {"n_hidden": 7}, r"'intro.training.n_hidden': 5 features fit into 7 hidden units; .* \(found 7\)"),
        (
            "phase_diagram",
            {"importances": GRID | {"last": 0.0}},
            r"'phase_diagram.training.importances.last': .*greater than 0 \(found 0.0\)",
        ),
        (
            "phase_diagram",
            {"densities": GRID | {"first": 1.5}},
            r"'phase_diagram.training.densities.first': .*less than or equal to 1 \(found 1.5\)",
        ),
        ("double_descent", {"n_features": 10, "n_hidden": 12}, WIDE),
    ],
)
def test_bad_settings_are_one_sentence(part, changes, sentence):
    path = ROOT / "replications" / "superposition" / "config.yaml"
    content = read_yaml(path)["default"]
    content[part]["training"] |= changes
    with pytest.raises(UserError, match=f"config.yaml: {sentence}$"):
        checked(Settings, content, path)
