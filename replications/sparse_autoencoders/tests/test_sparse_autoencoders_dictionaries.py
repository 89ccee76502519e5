"""Soft-frozen dictionaries: the cone, training within it, and how dictionaries are set side by side."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from common.saes.architectures.base import random_rows
from common.saes.index import Index
from common.saes.metrics import cosines
from common.saes.recipe import Recipe
from common.saes.stream import as_batch
from common.saes.trainer import train
from replications.sparse_autoencoders.dictionaries import DictionariesFiles, dictionaries
from replications.sparse_autoencoders.language_figures import PANELS
from replications.sparse_autoencoders.language_figures import dictionaries as draw_dictionaries
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.overlap import pair_rows
from replications.sparse_autoencoders.soft_frozen import COSINE, into_cone, train_soft_frozen
from replications.sparse_autoencoders.sweep import central, everything, further, narrower, swept


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
    training = training.model_copy(update={"steps": 80, "learning_rate": 0.01, "batch": 128, "checkpoint_every": 25})
    truth = rows(5, 12, 16)

    def batches(step, source):
        generator = torch.Generator().manual_seed(step)
        code = torch.rand(128, 12, generator=generator) * (torch.rand(128, 12, generator=generator) < 0.15)
        return as_batch(code @ truth)

    recipes = [Recipe(architecture="batch_topk", d_sae=24, sparsity=2.0, seed=seed) for seed in (3, 4)]
    held = train_soft_frozen(recipes, batches, training, tmp_path / "soft", data="")
    assert {len(line) for line in held[0].traces.values()} == {5}  # every 20 steps, and the last one

    def dying(step, source):
        if step == 30:
            raise InterruptedError
        return batches(step, source)

    with pytest.raises(InterruptedError):
        train_soft_frozen(recipes, dying, training, tmp_path / "soft", data="")
    again = train_soft_frozen(recipes, batches, training, tmp_path / "soft", data="")
    assert all(
        torch.equal(one.weights["W_dec"], other.weights["W_dec"]) for one, other in zip(held, again, strict=True)
    )
    soft = [one.sae for one in held]
    free = [one.sae for one in train(recipes, batches, training, tmp_path / "c")]
    x = batches(10_000, "").x[0]
    for recipe, sae, other in zip(recipes, soft, free, strict=True):
        start = random_rows(24, 16, torch.Generator().manual_seed(recipe.seed))
        moved = (sae.W_dec * start).sum(1)
        assert float(moved.min()) >= COSINE - 1e-4
        assert float(moved.min()) < 0.99
        assert float(cosines(other.W_dec, start).diagonal().min()) < COSINE
        assert (x - sae.reconstruct(x)).square().sum() > (x - other.reconstruct(x)).square().sum()


class Listing(Matcher):
    """Lists the folders it is asked to match."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __call__(self, one, other, null_seed=None):
        self.asked += [one, other]
        return torch.ones(2), torch.ones(2)


def test_every_dictionary_has_its_twin_of_the_first_seed_and_every_pair_is_trained():
    for scale in ("smoke", "laptop", "full", "gpu"):
        sweep = load_replication("sparse_autoencoders", scale).sweep
        found = everything(sweep, [0, 1, 2])
        names = {one.name for one in found}
        assert len(names) == len(found)
        first = {one.name for one in swept(sweep, [0, 1, 2])}
        for one in further(sweep, [0, 1, 2]):
            assert one.name.rpartition("-s")[0] + "-s0" in first
        kinds = [one.kind for one in found]
        assert kinds.count("soft") == 3
        assert kinds.count("late") == 3 * sweep.late
        assert kinds.count("width") == (3 - sweep.grid_seeds) * len(narrower(sweep))
        assert all((one.kind == "late") == (one.recipe.source == "late") for one in found)
        listing = Listing()
        pair_rows(listing, Index(Path("saes/index.json"), found), sweep, [0, 1, 2])
        assert {path.name for path in listing.asked} <= names


def test_dictionaries_side_by_side_are_paired_by_seed(tmp_path):
    sweep = load_replication("sparse_autoencoders", "laptop").sweep
    rest = {"l0": 32.0, "delta_ce": 0.3, "kl": 0.1}
    table = [
        {"name": central(sweep, seed, name), "fvu": fvu + tilt * seed, "recovered_mean": recovered, **rest}
        for name, fvu, tilt, recovered in (("batch_topk", 0.2, 0.01, 0.9), ("soft", 0.3, 0.01, 0.8),
                                           ("frozen", 0.5, 0.01, 0.5))
        for seed in (0, 1, 2)
    ]  # fmt: skip
    table += [
        {"name": f"{name}-{sweep.sparsity}", "fvu": 0.6, "recovered_mean": 0.2, **rest} for name in ("random", "pca")
    ]
    level = {"latents": 0.8, "soft-frozen": 0.7, "frozen": 0.65, "random": 0.6, "principal components": 0.5}
    probes = [
        {"seed": seed, "task": task, "view": view, "features": kind, "k": k, "accuracy": value + more + 0.01 * seed}
        for seed in (0, 1, 2)
        for task, more in (("one", 0.1), ("two", -0.1))
        for view in ("whole window", "before it")
        for kind, value in {**level, "latents": 0.8 if view == "whole window" else 0.1}.items()
        for k in (0, 1, 2, 5)
    ]
    planted = [
        {"world": world, "kind": kind, "seed": seed, "l0": 4, "explained": 0.6, "mmcs": 0.5, "recovered": value}
        for world in ("easy", "hard")
        for kind, value in (("trained", 1.0), ("soft", 0.1), ("frozen", 0.0), ("untrained", 0.0))
        for seed in (0, 1, 2)
    ]
    for name, own in (("saes", table), ("probes", probes), ("planted", planted)):
        pd.DataFrame(own).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: tmp_path / f"{name}.csv" for name in ("saes", "probes", "planted", "table")}
    dictionaries(
        DictionariesFiles(**files, metrics=tmp_path / "metrics.json"), sweep,
        RunInfo(scale="laptop", seeds=[0, 1, 2], device="cpu"),
    )  # fmt: skip
    found = read_metrics(tmp_path / "metrics.json")
    assert found["explained_soft_gap"].per_seed == pytest.approx([0.1] * 3)
    assert found["explained_soft_gap"].control("next_seed").per_seed == pytest.approx([0.01, 0.01, 0.02])
    assert found["recovered"].control("soft_frozen").difference.value == pytest.approx(0.1)
    assert found["explained"].control("frozen_decoder").value == pytest.approx(0.49)
    assert found["probe_k1"].value == pytest.approx(0.81)
    assert found["probe_k1_soft_gap"].per_seed == pytest.approx([0.1] * 3)
    assert found["probe_k5_frozen_gap"].per_seed == pytest.approx([0.15] * 3)
    assert "random_dictionary" in {control.name for control in found["probe_k1"].controls}
    assert "random_dictionary" not in {control.name for control in found["explained"].controls}
    frame = pd.read_csv(files["table"])
    assert list(dict.fromkeys(frame["kind"])) == ["trained", "soft", "frozen", "random", "pca"]
    assert frame[frame["kind"] == "random"]["explained"].notna().sum() == 1
    assert frame.set_index(["kind", "seed"]).loc[("trained", 2), "hard_found"] == 1
    assert set(PANELS) <= set(frame)
    assert len(draw_dictionaries(frame).axes) == len(PANELS)
