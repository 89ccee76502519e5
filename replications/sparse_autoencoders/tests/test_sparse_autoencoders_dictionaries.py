"""Soft-frozen dictionaries: the cone, training within it, and how dictionaries are set side by side."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.saes.architectures.base import random_rows
from common.saes.metrics import cosines, recovery
from common.saes.recipe import Recipe
from common.saes.stream import as_batch
from common.saes.trainer import train
from replications.sparse_autoencoders.dictionaries import dictionaries
from replications.sparse_autoencoders.draw_dictionaries import PANELS, draw_dictionaries
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.measure_planted import measure_planted, random
from replications.sparse_autoencoders.members import members
from replications.sparse_autoencoders.more_members import late_folders, more_members, narrower
from replications.sparse_autoencoders.overlap_pairs import pair_rows
from replications.sparse_autoencoders.soft_frozen import COSINE, into_cone, train_soft_frozen
from replications.sparse_autoencoders.train_controls import SHARE, train_controls
from replications.sparse_autoencoders.train_planted import train_planted
from replications.sparse_autoencoders.worlds import directions


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


def test_more_members_are_new_and_have_their_twins_in_the_sweep():
    for scale in ("smoke", "laptop", "gpu"):
        sweep = load_replication("sparse_autoencoders", scale).sweep
        own, more = members(sweep, [0, 1, 2]), more_members(sweep, [0, 1, 2])
        assert not {one.name for one in own} & {one.name for one in more}
        assert len({one.name for one in more}) == len(more)
        first = {one.name for one in own}
        for one in more:
            twin = one.name.rpartition("-s")[0].replace("soft", "batch_topk") + "-s0"
            assert twin in first
        kinds = [one.kind for one in more]
        assert kinds.count("soft") == 3
        assert kinds.count("late") == 2
        assert kinds.count("architecture seed") == 4
        assert all((one.kind == "late") == (one.recipe.source == "late") for one in more)
        stored = [("own", one) for one in own] + [("more", one) for one in more]
        late = [Path(there) / one.name for there, one in stored if one.kind == "late"]
        assert late_folders(Path("own/index.json"), Path("more/index.json"), sweep, [0, 1, 2]) == late
        assert kinds.count("width") == (3 - sweep.grid_seeds) * len(narrower(sweep))
        listing = Listing()
        pair_rows(listing, Path("own"), Path("more"), sweep, [0, 1, 2])
        assert set(listing.asked) <= {Path(there) / one.name for there, one in stored}
        assert max(one.recipe.d_sae for one in more) == sweep.width


def test_planted_dictionaries_that_are_held_back_find_less(tmp_path):
    """The controls of claim S2 at scale smoke, end to end: rows stay where they may be, and finding needs learning."""
    settings = load_replication("sparse_autoencoders", "smoke")
    training = settings.easy.training.model_copy(update={"steps": 300})
    easy, hard = (one.model_copy(update={"training": training}) for one in (settings.easy, settings.hard))
    run = {"easy": easy, "hard": hard, "seeds": [0, 1]}
    train_planted(
        **run, revival=settings.revival, device="cpu", checkpoint=tmp_path / "c", out=tmp_path / "models.safetensors"
    )
    train_controls(**run, device="cpu", checkpoint=tmp_path / "c", out=tmp_path / "controls.safetensors")
    stored = load_file(tmp_path / "controls.safetensors")
    for world, planted in (("easy", easy), ("hard", hard)):
        for place, seed in enumerate((0, 1)):
            start = random_rows(planted.d_sae, planted.world.d, torch.Generator().manual_seed(seed))
            moved = [(stored[f"{world}_{kind}.W_dec"][place] * start).sum(1) for kind in ("soft", "frozen")]
            assert COSINE - 1e-4 < float(moved[0].min()) < 0.99
            assert float(moved[1].min()) == pytest.approx(1, abs=1e-5)
    assert stored["easy_soft.trace_fvu"].shape[1] == 1 + -(-round(SHARE * 300) // 20)
    measure_planted(
        **run, models=tmp_path / "models.safetensors", controls=tmp_path / "controls.safetensors",
        metrics=tmp_path / "metrics.json", table=tmp_path / "t.csv", traces=tmp_path / "l.csv",
        kinds=tmp_path / "k.csv",
    )  # fmt: skip
    found = read_metrics(tmp_path / "metrics.json")
    explained = [found[f"easy_explained{end}"].value for end in ("", "_soft", "_frozen")]
    assert explained == sorted(explained, reverse=True)
    assert found["easy_mmcs"].value > found["easy_mmcs_soft"].value > found["easy_mmcs_frozen"].value
    near = [recovery(directions(easy.world, seed), random(easy, seed)).mmcs for seed in (0, 1)]
    assert found["easy_mmcs_untrained"].per_seed == pytest.approx(near)
    assert found["easy_mmcs_gain"].value == pytest.approx(found["easy_mmcs"].value - sum(near) / 2)
    assert found["easy_soft_share"].value == pytest.approx(explained[1] / explained[0], rel=0.01)
    difference = found["hard_soft_share"].value - found["easy_soft_share"].value
    assert found["hard_soft_share_minus_easy"].value == pytest.approx(difference)
    kinds = pd.read_csv(tmp_path / "k.csv")
    assert len(kinds) == 2 * 2 * 4
    assert kinds.groupby("kind")["l0"].mean().between(1.5, 5).all()


def test_dictionaries_side_by_side_are_paired_by_seed(tmp_path):
    sweep = load_replication("sparse_autoencoders", "laptop").sweep
    end = f"{sweep.width}-k{sweep.sparsity}-s"
    rest = {"l0": 32.0, "delta_ce": 0.3, "kl": 0.1}
    table = [
        {"name": f"{name}-{end}{seed}", "fvu": fvu + tilt * seed, "recovered_mean": recovered, **rest}
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
    dictionaries(
        saes=tmp_path / "saes.csv", probes=tmp_path / "probes.csv", planted=tmp_path / "planted.csv", sweep=sweep,
        seeds=[0, 1, 2], metrics=tmp_path / "metrics.json", table=tmp_path / "d.csv",
    )  # fmt: skip
    found = read_metrics(tmp_path / "metrics.json")
    assert found["explained_soft_gap"].per_seed == pytest.approx([0.1] * 3)
    assert found["explained_seed_gap"].per_seed == pytest.approx([0.01, 0.01, 0.02])
    assert found["recovered_soft_gap"].value == pytest.approx(0.1)
    assert found["explained_frozen"].value == pytest.approx(0.49)
    assert found["probe_k1_trained"].value == pytest.approx(0.81)
    assert found["probe_k1_soft_gap"].per_seed == pytest.approx([0.1] * 3)
    assert found["probe_k5_frozen_gap"].per_seed == pytest.approx([0.15] * 3)
    assert "explained_random" not in found
    assert "probe_k1_random" in found
    frame = pd.read_csv(tmp_path / "d.csv")
    assert list(dict.fromkeys(frame["kind"])) == ["trained", "soft", "frozen", "random", "pca"]
    assert frame[frame["kind"] == "random"]["explained"].notna().sum() == 1
    assert frame.set_index(["kind", "seed"]).loc[("trained", 2), "hard_found"] == 1
    assert set(PANELS) <= set(frame)
    assert len(draw_dictionaries(frame).axes) == len(PANELS)
