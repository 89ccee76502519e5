"""Metrics on cases with known answers: identity, mean, zero, scaled, shifted, PCA, one-hot."""

import math

import numpy as np
import pytest
import torch

from common.core.errors import UserError
from common.saes.metrics import detection, fvu, l0, loss_recovered, moments, pathological_ratio, principal, recovery


@pytest.fixture(scope="module")
def x():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(500, 8, generator=generator, dtype=torch.float64) @ torch.randn(8, 8, generator=generator).double()
    ) + 2


def total(x):
    return float((x - x.mean(0)).square().sum())


def test_identity(x):
    assert fvu(x, x) == 0
    assert loss_recovered(2.0, 2.0, 5.0) == 1
    with pytest.raises(UserError, match="perfect reconstruction"):
        pathological_ratio(0.0, 0.0)


def test_mean_and_zero_separate_centred_from_plain(x):
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1)
    assert fvu(x, torch.zeros_like(x)) == pytest.approx(float(x.square().sum()) / total(x))
    assert fvu(x, torch.zeros_like(x)) > 1


def test_scaled(x):
    assert fvu(x, 0.7 * x) == pytest.approx(0.3**2 * float(x.square().sum()) / total(x))


def test_a_constant_shift_counts(x):
    shift = torch.full((8,), 0.5, dtype=torch.float64)
    assert fvu(x, x + shift) == pytest.approx(500 * float(shift.square().sum()) / total(x))
    blind = 1 - float((x - (x + shift)).var(0).sum() / x.var(0).sum())  # dictionary_learning's definition sees no shift
    assert blind == pytest.approx(1)


def test_parts_add_up(x):
    found = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    halves = moments(x[:200], found[:200]) + moments(x[200:], found[200:])
    assert halves.fvu == pytest.approx(fvu(x, found))


def test_pca_leaves_the_tail(x):
    mean, axes = principal(x)
    values = torch.linalg.eigvalsh(torch.cov(x.mT, correction=0)).flip(0)
    for r in (1, 3, 6):
        kept = axes[:, :r].double()
        found = (x - mean) @ kept @ kept.mT + mean
        assert fvu(x, found) == pytest.approx(float(values[r:].sum() / values.sum()), rel=1e-4)
    top = axes[:, :3].double()
    assert total(x - x @ top @ top.mT) == pytest.approx(total(x) * float(values[3:].sum() / values.sum()), rel=1e-4)


def test_orthogonal_dictionary_is_fully_recovered():
    truth = torch.eye(6)
    found = recovery(truth, torch.eye(6)[[3, 1, 0, 2, 5, 4]])
    assert found == (1, 1, 1)
    assert l0(torch.eye(6)) == 1


def test_duplicates_show_in_uniqueness_only():
    found = recovery(torch.eye(6), torch.eye(6).repeat(2, 1))
    assert (found.mmcs, found.mcc, found.uniqueness) == (1, 1, 0.5)
    assert recovery(torch.eye(6), torch.eye(6)[:3]).mcc == 1  # of the pairs, as SynthSAEBench


def test_random_dictionary_has_the_known_cosine():
    generator = torch.Generator().manual_seed(0)
    draws = [
        recovery(torch.randn(256, 64, generator=generator), torch.randn(256, 64, generator=generator)).mmcs
        for _ in range(3)
    ]
    assert np.mean(draws) == pytest.approx(0.35, abs=0.02)


def test_undefined_numbers_say_so():
    with pytest.raises(UserError, match="all activations are equal"):
        fvu(torch.ones(5, 3), torch.zeros(5, 3))
    with pytest.raises(UserError, match="does not raise the loss"):
        loss_recovered(2.0, 3.0, 2.0)
    assert loss_recovered(2.0, 3.0, 5.0) == pytest.approx(2 / 3)
    assert math.isclose(pathological_ratio(0.6, 0.2), 3)


def test_f1_of_detectors_whose_precision_and_recall_are_known():
    active = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.bool)
    latents = torch.zeros(4, 3)
    latents[:2, 0] = 1.0  # precision 1, recall 2/3
    latents[:, 1] = -1.0  # precision 1/2, recall 1
    assert detection(latents[:, :2], active, torch.tensor([0, 1])) == pytest.approx((0.8 + 2 / 3) / 2)
    assert detection(latents, active, torch.tensor([0, 1, 1])) == pytest.approx((0.8 + 2 / 3) / 2)  # the dead
    assert detection(latents[:, 2:], active, torch.tensor([0])) == 0
    assert detection(active.float(), active, torch.tensor([0, 1])) == 1
