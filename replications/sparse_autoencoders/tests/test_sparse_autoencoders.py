"""The replication: baselines, order statistics, substitution into the model, wiring of the sweep."""

import numpy as np
import pytest
import torch

from common.core.errors import UserError
from common.core.settings import load_replication
from common.saes.harvest import CORPUS, Windows, check_hook, harvest, kept_tokens
from common.saes.metrics import fvu, l0, moments, principal
from common.saes.sae import About, Sae
from common.saes.stream import Activations, as_batch, write_shards
from replications.sparse_autoencoders import reconstructions
from replications.sparse_autoencoders.baselines import baselines
from replications.sparse_autoencoders.measure_language import CONTROLS, add_effects, cost_metrics, soft_share
from replications.sparse_autoencoders.order import falling, order_metrics, shuffled, slope
from replications.sparse_autoencoders.reconstructions import Judge
from replications.sparse_autoencoders.settings import Planted, Settings, Sweep
from replications.sparse_autoencoders.substitution import Effect, HeldOut, at_same_distance, scored, substitute
from replications.sparse_autoencoders.sweep import central, swept


def test_every_scale_has_a_sweep_with_distinct_names_and_its_controls():
    for name in ("smoke", "laptop", "full", "gpu"):
        sweep = load_replication("sparse_autoencoders", name).sweep
        found = swept(sweep, [0, 1, 2])
        assert len({one.name for one in found}) == len(found)
        kinds = [one.kind for one in found]
        assert kinds.count("grid") == len(sweep.widths) * len(sweep.sparsities)
        assert kinds.count("frozen") == kinds.count("shuffled") >= 2
        assert all(one.recipe.frozen_decoder == (one.kind == "frozen") for one in found)
        assert {one.recipe.source for one in found} == {"activations", "shuffled", *(["late"] if sweep.late else [])}


def test_baselines_are_what_their_names_say():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 3
    found = {one.name: one.reconstruct for one in baselines(x, [2, 4], 50, [12])}
    assert fvu(x, found["mean"](x)) == pytest.approx(1, abs=1e-4)
    assert fvu(x, found["pca-12"](x)) < 1e-6
    assert fvu(x, found["pca-4"](x)) < fvu(x, found["pca-2"](x)) < 1
    kept = found["neurons-2"](x)
    assert ((kept - x).abs() < 1e-6).sum(1).min() == 2
    assert fvu(x, found["random-4"](x)) < 1
    assert torch.equal(found["zero"](x), torch.zeros_like(x))


def test_the_longest_window_of_each_document_is_taken_from_the_corpora_in_turn():
    documents = torch.tensor([0, 0, 1, 2, CORPUS, CORPUS + 1, CORPUS + 1])
    used = torch.arange(10) < torch.tensor([9, 10, 8, 7, 2, 3, 4])[:, None]
    tokens = torch.zeros(7, 10, dtype=torch.long)
    held = HeldOut(1, tokens, torch.ones_like(used), used, documents, torch.zeros(7, 10, 3))
    for count, expected in {2: [10, 4], 3: [10, 4, 8], 9: [10, 4, 8, 2, 7]}.items():
        chosen = held.one_per_document(count, 10)
        assert chosen.used.sum(1).tolist() == expected
        assert chosen.document.unique().numel() == len(expected)
    cut = held.one_per_document(3, 6)
    assert cut.used.sum(1).tolist() == [6, 4, 6]
    assert torch.equal(cut.resid, held.one_per_document(3, 10).resid[:, :6])


def test_the_cost_is_that_of_both_corpora_and_of_each():
    document = np.array([0, 0, 1, CORPUS, CORPUS + 1, CORPUS + 1])
    docs, clean = document < CORPUS, np.full(6, 2.0)
    found = {"clean": Effect(clean, 0 * clean), "mean": Effect(clean + 4, 1 + 0 * clean)}
    found["sae"] = Effect(clean + np.where(docs, 0.2, 1.0), np.where(docs, 0.1, 0.5))
    rows = [{"name": "sae"}, {"name": "not substituted"}]
    add_effects(rows, found, document)
    row = rows[0]
    assert [row["delta_ce"], row["delta_ce_python_docs"], row["delta_ce_self_chat"]] == pytest.approx([0.6, 0.2, 1.0])
    ways = ("recovered_mean", "recovered_mean_python_docs", "recovered_mean_self_chat")
    assert [row[way] for way in ways] == pytest.approx([0.85, 0.95, 0.75])
    assert row["kl"] == pytest.approx(0.3)
    assert row["delta_ce_low"] < 0.6 < row["delta_ce_high"]
    assert rows[1] == {"name": "not substituted"}


def test_costs_and_shares_are_those_of_documents_and_seeds():
    """Two documents, two seeds: trained rows cost 1 and 2 nats of 10 and explain 0.8 and 0.6, others cost 5."""
    sweep, seeds, document = load_replication("sparse_autoencoders", "smoke").sweep, [0, 1], np.array([0, 0, 1, 1])
    ones, size = np.ones(4), np.array([1.0, 1, 3, 3])
    found = {"clean": Effect(2 * ones, 0 * ones), "mean": Effect(2 + 10 * size, ones)}
    sums = {}
    for seed in seeds:
        for kind in ("batch_topk", *CONTROLS):
            name = f"{kind}-{sweep.sparsity}" if kind in ("pca", "random", "neurons") else central(sweep, seed, kind)
            cost, missed = (1 + seed, 0.2 + 0.2 * seed) if kind == "batch_topk" else (5, 0.5)
            found[name], sums[name] = Effect(2 + cost * size, ones), (missed * size, size)
    costs = cost_metrics(found, document, sweep, seeds)
    recovered = costs["recovered"]
    assert recovered.per_seed == pytest.approx([0.9, 0.8])
    assert (recovered.uncertainty.unit, recovered.uncertainty.count) == ("documents", 2)
    assert [control.value for control in recovered.controls] == pytest.approx([0.5] * 5)
    assert costs["delta_ce"].per_seed == pytest.approx([2, 4])
    assert costs["delta_ce"].control("mean_ablation").value == pytest.approx(20)
    assert "soft_frozen" not in {control.name for control in recovered.controls}
    share = soft_share(sums, document, sweep, seeds)
    assert share.per_seed == pytest.approx([0.5 / 0.8, 0.5 / 0.6])
    assert share.control("next_seed").per_seed == pytest.approx([0.6 / 0.8, 0.8 / 0.6])
    assert share.control("next_seed").value == pytest.approx(1)


def test_reconstructions_are_judged_as_the_formulas_say(tmp_path, monkeypatch):
    """Against the plain formulas of `common.saes.metrics`, on data where three directions are huge."""
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(6, 40, 12, generator=generator) + 2
    resid[..., :3] *= 20
    used = torch.rand(6, 40, generator=generator) < 0.9
    tokens = torch.zeros(6, 40, dtype=torch.long)
    documents = torch.tensor([0, 1, CORPUS, CORPUS + 1, 0, 1])
    held = HeldOut(1, tokens, torch.ones_like(used), used, documents, resid)
    seen = torch.randn(300, 12, generator=generator) * resid.std((0, 1)) + 2
    write_shards(tmp_path, seen, torch.arange(300) % 3 // 2 * CORPUS, torch.zeros(300, dtype=torch.long),
                 about={"model": "t", "hook": "blocks.1.hook_resid_pre", "corpora": [], "dropped": {}})  # fmt: skip
    monkeypatch.setattr(reconstructions, "AT_ONCE", 50)
    data = Activations(tmp_path)
    judged = Judge(held, data)
    rows = torch.nn.functional.normalize(torch.randn(30, 12, generator=generator), dim=1)
    sae = Sae(About("t", seed=4), "relu", rows.T.contiguous(), torch.full((30,), -0.5), 0.4 * rows, torch.zeros(12))
    row, (above, below) = judged.sae(sae)
    x, found = held.activations(), sae.reconstruct(held.activations())
    slow = moments(x, found)
    assert row["fvu"] == pytest.approx(slow.fvu, rel=1e-6)
    assert row["gamma"] == pytest.approx(slow.gamma, rel=1e-6)
    assert row["fvu_low"] < row["fvu"] < row["fvu_high"]
    top = principal(x)[1][:, :3]
    rest = moments(*(one - one @ top @ top.mT for one in (x, found))).fvu
    assert row["fvu_without_top"] == pytest.approx(rest, rel=1e-3)
    assert abs(rest - slow.fvu) > 0.1
    assert row["mse"] == pytest.approx(float((x - found).square().sum(1).mean()), rel=1e-5)
    assert row["cosine"] == pytest.approx(float(torch.cosine_similarity(x, found).mean()), rel=1e-5)
    for corpus, place in (("python_docs", 0), ("self_chat", 1)):
        here = torch.from_numpy(held.documents() // CORPUS == place)
        assert row[f"fvu_{corpus}"] == pytest.approx(fvu(x[here], found[here]), rel=1e-6)
        part = data.x[data.document // CORPUS == place]
        assert row[f"fvu_train_{corpus}"] == pytest.approx(fvu(part, sae.reconstruct(part)), rel=1e-6)
    assert abs(row["fvu_self_chat"] - row["fvu_python_docs"]) > 1e-3
    assert row["fvu_train"] == pytest.approx(fvu(seen, sae.reconstruct(seen)), rel=1e-6)
    monkeypatch.setattr(reconstructions, "TRAIN_SAMPLE", 100)
    first = torch.cat([data.batch(step, 50) for step in range(2)]) / data.manifest.scale  # what a run sees first
    early = Judge(held, data).sae(sae)[0]
    assert early["fvu_train"] == pytest.approx(fvu(first, sae.reconstruct(first)), rel=1e-5)
    assert row["l0"] == pytest.approx(l0(sae.encode(x)))
    assert (row["seed"], row["width"]) == (4, 30)
    assert np.allclose(above, (x.double() - found.double()).square().sum(1))
    assert np.allclose(below, (x.double() - x.double().mean(0)).square().sum(1))
    mean, _ = judged.reconstruction(x.mean(0).expand_as(x))
    assert mean["fvu"] == pytest.approx(1, abs=1e-6)
    assert judged.reconstruction(torch.zeros_like(x))[0]["gamma"] == 0  # not defined, and no error


def test_more_active_latents_than_there_are_is_refused_where_it_is_written():
    settings = load_replication("sparse_autoencoders", "smoke")
    with pytest.raises(ValueError, match="from 4 to 65, but must lie between 1 and the smallest width, 64"):
        Sweep.model_validate({**settings.sweep.model_dump(), "sparsities": [4, 8, 65]})
    with pytest.raises(ValueError, match="sparsities go from 0 to 8"):
        Sweep.model_validate({**settings.sweep.model_dump(), "sparsities": [0, 8]})
    with pytest.raises(ValueError, match="k = 129 active latents exceed the 128 that a SAE has there"):
        Planted.model_validate({**settings.planted.model_dump(), "sparsities": [129.0]})
    without = {**settings.corpora.model_dump(), "late_layer": None}
    with pytest.raises(ValueError, match="late asks for a late_layer"):
        Settings.model_validate({**settings.model_dump(), "corpora": without})


def test_order_of_a_planted_grid():
    generator = np.random.default_rng(0)
    documents = generator.integers(0, 30, 900)
    below = np.ones(900)
    grid = [[(below * 0.8 / (1 + width) / (1 + k) + 0.001 * generator.random(900), below) for k in range(3)]
            for width in range(3)]  # fmt: skip
    found = order_metrics(grid, documents, [10, 20, 40])
    assert found["width_order"].value == found["width_order"].ci_low == 1
    assert found["sparsity_order"].value == 1
    assert found["width_order"].control("shuffled_labels").ci_high < 0.95
    assert found["width_order"].control("shuffled_labels").difference.ci_low > 0
    assert found["width_slope"].ci_high < -0.5
    flat = [[row[0]] * 3 for row in grid]
    assert order_metrics(flat, documents, [10, 20, 40])["sparsity_order"].value == 0
    assert falling(np.array([[3.0], [1.0], [2.0]])) == pytest.approx(2 / 3)
    assert falling(shuffled(np.arange(9.0).reshape(3, 3))).mean() == pytest.approx(0.5, abs=0.05)
    assert slope(np.array([[8.0], [4.0], [2.0]]), [1, 2, 4]) == pytest.approx(-1)


def test_dropped_tokens_and_shared_batches():
    tokens = torch.tensor([[5, 1, 7, 0], [1, 6, 0, 0]])
    real = torch.tensor([[True, True, True, False], [True, True, False, False]])
    masks = kept_tokens(tokens, real, [0, 1])
    assert masks["first position"].tolist() == [[True, False, False, False], [True, False, False, False]]
    assert masks["special token"].tolist() == [[False, True, False, False], [False, False, False, False]]
    assert as_batch(torch.zeros(4, 3)).x.shape == (1, 4, 3)


@pytest.fixture(scope="module")
def bridge(model_folder):
    from common.data.models import load_model

    return load_model(model_folder)


@pytest.mark.model
def test_harvest_stops_at_the_hook_and_keeps_hooks_aligned(bridge):
    tokens = torch.randint(100, 40_000, (3, 9), generator=torch.Generator().manual_seed(0))
    real = torch.ones(3, 9, dtype=torch.bool)
    real[1, 6:] = False
    source = Windows(tokens, real, torch.tensor([4, 5, 6]))
    hooks = ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out"]
    found = harvest(bridge, source, hooks, [0], 2, "cpu")
    one = found[hooks[0]]
    assert one.dropped["first position"] == 3
    assert len(one.x) == int(real.sum()) - 3 - one.dropped["outlier"]
    seen = {}
    with torch.no_grad():
        bridge.run_with_hooks(
            tokens, attention_mask=real.long(), stop_at_layer=4,
            fwd_hooks=[(name, lambda value, hook, name=name: seen.update({name: value})) for name in hooks],
        )  # fmt: skip
    for name in hooks:
        for document, token in ((4, 3), (6, 8), (5, 5)):
            row = {4: 0, 5: 1, 6: 2}[document]
            place = (found[name].document == document) & (found[name].token_id == tokens[row, token])
            assert torch.allclose(found[name].x[place][0], seen[name][row, token], atol=2e-3), name
    with pytest.raises(UserError, match="near names: blocks"):
        check_hook(bridge, "blocks.1.hook_resid_prre")
    with pytest.raises(UserError, match="belongs to no block"):
        check_hook(bridge, "hook_embed")


@pytest.mark.model
@pytest.mark.parametrize(("hook", "last"), [("hook_resid_pre", 1), ("attn.hook_out", 2), ("hook_mlp_out", 2)])
def test_nothing_behind_the_hook_is_computed(bridge, hook, last):
    entered = []
    parts = [(place, part) for place, block in enumerate(bridge.blocks) for part in (block.attn, block.mlp)]
    watched = [*parts, (len(bridge.blocks), bridge.unembed)]
    handles = [
        part.register_forward_pre_hook(lambda module, given, place=place: entered.append(place))
        for place, part in watched
    ]
    source = Windows(torch.arange(100, 112).reshape(2, 6), torch.ones(2, 6, dtype=torch.bool), torch.arange(2))
    try:
        harvest(bridge, source, [f"blocks.2.{hook}"], [0], 2, "cpu")
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(set(entered)) == list(range(last + 1))


@pytest.mark.model
def test_substitution_resumes_from_the_residual(bridge):
    from common.interp.decoder import Decoder

    layer = 28
    tokens = torch.randint(100, 40_000, (3, 8), generator=torch.Generator().manual_seed(1))
    real = torch.ones(3, 8, dtype=torch.bool)
    real[2, 6:] = False
    used = real.clone()
    used[:, 0] = False
    seen = {}
    hooks = [(f"blocks.{layer - 1}.hook_resid_post", lambda value, hook: seen.update(x=value))]
    with torch.no_grad():
        logits = bridge.run_with_hooks(tokens, attention_mask=real.long(), fwd_hooks=hooks)
    held = HeldOut(layer, tokens, real, used, torch.arange(3), seen["x"])
    mean = held.activations().mean(0)
    found = substitute(
        Decoder(bridge, 8), held,
        {"same": lambda x: x, "mean": lambda x: mean.expand_as(x), "near": at_same_distance(lambda x: 0.99 * x, 0)}, 2,
    )  # fmt: skip
    score = scored(held)
    expected = -logits.log_softmax(-1)[score].gather(1, tokens.roll(-1, 1)[score][:, None])[:, 0]
    assert torch.allclose(torch.tensor(found["clean"].ce), expected.double(), atol=2e-3)
    assert np.abs(found["same"].kl).max() < 1e-4
    assert np.array_equal(found["same"].ce, found["clean"].ce)
    assert found["mean"].kl.mean() > 10 * found["near"].kl.mean() > 0
    x = held.activations()
    moved = at_same_distance(lambda x: 0.9 * x, 3)(x)
    assert torch.allclose((moved - x).norm(dim=1), 0.1 * x.norm(dim=1), rtol=1e-3)
