"""Errors of SAEs against random errors of their size: planted ratios, the control, documents as the unit."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.saes.index import Entry, read_index, write_index
from common.saes.sae import About, Sae
from replications.sparse_autoencoders.measure_errors import (
    DRAWS,
    by_document,
    compared,
    covariance_root,
    excess,
    noise,
    over_documents,
    row,
    set_against,
    summary,
)
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.substitution import at_same_distance
from replications.sparse_autoencoders.sweep import recipe

SWEEP = Sweep.model_validate(
    {
        "widths": [8, 16], "sparsities": [2, 4], "grid_seeds": 1, "width": 16, "sparsity": 4, "architectures": [],
        "late": True,
        "training": {"steps": 1, "batch": 2, "learning_rate": 0.1, "warmup": 0, "dead_after": 1},
    }
)  # fmt: skip


def planted(factor, seed, documents=12):
    """An SAE whose error does `factor` times the damage of random ones, which differ by a tenth between draws."""
    dice = np.random.default_rng(seed)
    size = dice.uniform(1, 3, documents)
    random = size * (1 + 0.1 * dice.standard_normal((DRAWS, 1)))
    return set_against(factor * size, random, 2 * size)


def judged(factors):
    places = [("grid", 2, 0), ("grid", 4, 0), ("seed", 4, 1), ("late", 4, 0), ("late", 4, 1)]
    found = {f"{kind}-{k}-{seed}": planted(factor, number) for number, (factor, (kind, k, seed)) in
             enumerate(zip(factors, places, strict=True))}  # fmt: skip
    rows = [
        {"name": name, "kind": kind, "k": k, "seed": seed, "ratio": found[name].effect.ratio,
         "null": found[name].null.ratio, "shaped": found[name].shaped.ratio}
        for name, (kind, k, seed) in zip(found, places, strict=True)
    ]  # fmt: skip
    return summary(pd.DataFrame(rows), found, SWEEP, [0, 1])


def test_planted_ratios_are_found_where_they_are():
    found = judged([3.0, 2.0, 2.2, 4.0, 4.4])
    assert found["pathological_ratio"].per_seed == pytest.approx([2.0, 2.2], rel=0.15)
    covariance = found["pathological_ratio"].control("covariance_points")
    assert covariance.value == pytest.approx(2, rel=0.1)  # twice the damage of random points, as planted
    assert found["pathological_ratio"].uncertainty.unit == "documents"
    assert found["pathological_ratio_shaped"].per_seed == pytest.approx([1.0, 1.1])
    assert found["pathological_ratio_late"].per_seed == pytest.approx([4.0, 4.4], rel=0.15)
    assert found["pathological_ratio_k2"].value == pytest.approx(3, rel=0.15)
    assert found["pathological_share"].value == 1
    assert found["pathological_share"].control("random_points").value == 0
    assert found["pathological_share"].control("random_points").difference.ci_low == 1
    few = judged([3.0, 2.0, 1.2, 1.2, 1.2])
    assert few["pathological_share"].value == pytest.approx(0.4)
    assert few["pathological_share"].control("random_points").difference.value == pytest.approx(0.4)


def test_the_control_strays_as_draws_do():
    """Over all draws, or averaged over the two halves, it would be 1 however much draws differ."""
    nulls = np.array([planted(2.0, seed).null.ratio for seed in range(300)])
    assert nulls.mean() == pytest.approx(1, abs=0.03)
    assert nulls.std() == pytest.approx(0.1 * (2 / (DRAWS // 2)) ** 0.5, rel=0.15)


def test_every_sae_and_draw_has_noise_of_its_own():
    seeds = {noise(name, draw) for name in ("a", "b", "late-a") for draw in range(DRAWS)}
    assert len(seeds) == 3 * DRAWS
    assert noise("a", 0) == noise("a", 0)


def test_documents_are_resampled_the_same_ones_for_all():
    kl, document = np.array([1.0, 2.0, 3.0, 4.0]), np.array([7, 7, 9, 7])
    assert by_document(kl, document).tolist() == [7.0, 3.0]
    one = set_against(np.array([1.0, 9.0]), np.ones((DRAWS, 2)), np.ones(2))
    found = over_documents([one.effect], lambda ratios: ratios[0], "x")
    assert (found.value, found.ci_low, found.ci_high, found.n) == (5, 1, 9, 2)
    twice = over_documents([one.effect, one.effect], excess, "x")
    assert (twice.value, twice.ci_low, twice.ci_high) == (0, 0, 0)
    sae = Sae(About("batch_topk"), "relu", torch.zeros(3, 4), torch.zeros(4), torch.zeros(4, 3), torch.zeros(3))
    nothing = set_against(np.zeros(2), np.zeros((DRAWS, 2)), np.zeros(2))
    with pytest.raises(UserError, match="perfect reconstruction"):
        row("perfect", sae, "grid", nothing)
    with pytest.raises(UserError, match="take more held-out windows"):
        over_documents([set_against(np.array([1.0, 0]), np.tile([1.0, 0], (DRAWS, 1)), np.ones(2)).effect], excess, "x")


def test_directions_have_the_covariance_of_the_activations_and_the_length_of_the_error():
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 3, generator=dice) @ torch.tensor([[3.0, 1, 0], [0, 1, 0], [0, 0, 0.1]])
    root = covariance_root(x)
    torch.testing.assert_close(root @ root.mT, x.T.cov(), atol=1e-3, rtol=1e-3)
    moved = at_same_distance(lambda x: x * 0.5, 0, root)(x) - x
    torch.testing.assert_close(moved.norm(dim=1), 0.5 * x.norm(dim=1))
    direction = moved / moved.norm(dim=1, keepdim=True)
    assert direction.square().mean(0)[0] > 0.6
    assert direction.square().mean(0)[2] < 0.02


def test_compared_are_the_batch_topk_saes_of_the_central_width(tmp_path):
    listed = [("a", "grid", 16, 4), ("b", "grid", 8, 4), ("c", "seed", 16, 4), ("d", "frozen", 16, 4),
              ("e", "late", 16, 4), ("f", "soft", 16, 4), ("g", "grid", 16, 2), ("h", "architecture seed", 16, 4),
              ("i", "width", 8, 4)]  # fmt: skip
    entries = [Entry(name=name, kind=kind, recipe=recipe("topk", width, k, 0)) for name, kind, width, k in listed]
    write_index(tmp_path / "index.json", entries)
    index = read_index(tmp_path / "index.json")
    assert [one.name for one in compared(index, SWEEP, everywhere=True)] == ["a", "c", "e", "g"]
    assert [one.name for one in compared(index, SWEEP, everywhere=False)] == ["a", "c"]
