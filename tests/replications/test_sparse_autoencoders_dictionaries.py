"""Soft-frozen dictionaries: the cone, training within it, and how dictionaries are set side by side."""

import pandas as pd
import pytest
import torch

from common.config import load_replication
from common.saes.architectures.base import random_rows
from common.saes.metrics import cosines
from common.saes.recipe import Recipe
from common.saes.stream import as_batch
from common.saes.trainer import train
from replications.sparse_autoencoders.dictionaries import others, summary
from replications.sparse_autoencoders.soft_frozen import COSINE, into_cone, train_soft_frozen


def rows(seed, count=30, d=8):
    return random_rows(count, d, torch.Generator().manual_seed(seed))


def test_the_cone_keeps_what_is_inside_and_moves_the_rest_to_its_nearest_edge():
    start, now = rows(0), rows(1)
    now[:5] = start[:5] + 0.1 * now[:5]
    now = now / now.norm(dim=1, keepdim=True)
    found = into_cone(now, start)
    cosine = (found * start).sum(1)
    assert torch.allclose(found.norm(dim=1), torch.ones(30), atol=1e-5)
    assert float(cosine.min()) >= COSINE - 1e-5
    assert torch.equal(found[:5], now[:5])
    assert torch.allclose(cosine[5:], torch.full((25,), COSINE), atol=1e-5)
    assert torch.allclose(into_cone(found, start), found, atol=1e-5)
    angle = torch.linspace(0, 6.28, 2000)
    for at in (7, 9):  # no unit vector of the edge in the plane of both is nearer
        side = now[at] - now[at] @ start[at] * start[at]
        side = side / side.norm()
        plane = angle.cos()[:, None] * start[at] + angle.sin()[:, None] * side
        allowed = plane[plane @ start[at] >= COSINE]
        assert float((allowed @ now[at]).max()) <= float(found[at] @ now[at]) + 1e-4


def test_training_stays_in_the_cone_and_explains_less_than_free_training(tmp_path):
    training = load_replication("sparse_autoencoders", "smoke").sweep.training
    training = training.model_copy(update={"steps": 80, "learning_rate": 0.01, "batch": 128})
    truth = rows(5, 12, 16)

    def batches(step, source):
        generator = torch.Generator().manual_seed(step)
        code = torch.rand(128, 12, generator=generator) * (torch.rand(128, 12, generator=generator) < 0.15)
        return as_batch(code @ truth)

    recipes = [Recipe(architecture="batch_topk", d_sae=24, sparsity=2.0, seed=seed) for seed in (3, 4)]
    soft = train_soft_frozen(recipes, batches, training)
    free = [one.sae for one in train(recipes, batches, training, tmp_path / "c")]
    x = batches(10_000, "").x[0]
    for recipe, sae, other in zip(recipes, soft, free, strict=True):
        start = random_rows(24, 16, torch.Generator().manual_seed(recipe.seed))
        moved = (sae.W_dec * start).sum(1)
        assert float(moved.min()) >= COSINE - 1e-4
        assert float(moved.min()) < 0.99
        assert float(cosines(other.W_dec, start).diagonal().min()) < COSINE
        assert (x - sae.reconstruct(x)).square().sum() > (x - other.reconstruct(x)).square().sum()


def test_dictionaries_side_by_side_are_paired_by_seed():
    sweep = load_replication("sparse_autoencoders", "laptop").sweep
    end = f"{sweep.width}-k{sweep.sparsity}-s"
    rest = {"delta_ce": 0.3, "recovered_mean": 0.9, "kl": 0.1}
    table = [
        {
            "name": f"{name}-{end}{seed}",
            "l0": 32.0,
            "fvu": fvu + 0.01 * seed,
            "delta_ce": 0.3,
            "recovered_mean": 0.9,
            "kl": 0.1,
        }
        for name, fvu in (("batch_topk", 0.2), ("frozen", 0.5))
        for seed in (0, 1, 2)
    ]
    table += [{"name": f"{name}-{sweep.sparsity}", "l0": 32.0, "fvu": 0.6, **rest} for name in ("random", "pca")]
    soft = [
        {
            "kind": "soft",
            "seed": seed,
            "l0": 32.0,
            "explained": 0.7 - 0.01 * seed,
            "delta_ce": 0.4,
            "recovered": 0.8,
            "kl": 1,
        }
        for seed in (0, 1, 2)
    ]
    frame = pd.concat([pd.DataFrame(soft), others(pd.DataFrame(table), sweep, [0, 1, 2])])
    found = summary(frame)
    assert found["explained_soft_gap"].per_seed == pytest.approx([0.1] * 3)
    assert found["explained_seed_gap"].per_seed == pytest.approx([0.01, 0.01, -0.02])
    assert found["recovered_soft_gap"].value == pytest.approx(0.1)
    assert found["explained_frozen"].value == pytest.approx(0.49)
    assert "explained_random" not in found
    assert set(frame["kind"]) == {"soft", "trained", "frozen", "random", "pca"}
