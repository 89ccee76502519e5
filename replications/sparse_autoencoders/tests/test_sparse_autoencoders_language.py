"""The language model's half: the sweep, baselines, substitution into the model, latents, named features."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.settings import load_replication
from common.data.corpora import Document, write_corpus
from common.saes.harvest import CORPUS, Windows, check_hook, harvest, kept_tokens
from common.saes.metrics import fvu, l0, moments, principal
from common.saes.sae import About, Sae
from common.saes.stream import Activations, as_batch, write_shards
from replications.sparse_autoencoders import reconstructions
from replications.sparse_autoencoders.baselines import baselines, untrained_code
from replications.sparse_autoencoders.describing import STRONGEST, described
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.measure_language import (
    CONTROLS,
    add_effects,
    cost_metrics,
    exponents,
    names,
    pursuits,
    soft_share,
)
from replications.sparse_autoencoders.measure_latents import examples
from replications.sparse_autoencoders.measure_latents import summary as summary_of_latents
from replications.sparse_autoencoders.named_features import PATTERNS, both_signs, choose, kept_share, mark, summary
from replications.sparse_autoencoders.reconstructions import Judge
from replications.sparse_autoencoders.settings import Settings, Sweep
from replications.sparse_autoencoders.substitution import (
    Effect,
    HeldOut,
    along_error,
    at_same_distance,
    groups_of,
    scored,
    substitute,
)
from replications.sparse_autoencoders.sweep import everything, passes


def test_every_scale_has_a_sweep_with_distinct_names_and_its_controls():
    for name in ("smoke", "laptop", "full", "gpu"):
        sweep = load_replication("sparse_autoencoders", name).sweep
        found = everything(sweep, [0, 1, 2])
        assert len({one.name for one in found}) == len(found)
        kinds = [one.kind for one in found]
        assert kinds.count("main") == kinds.count("soft") == 3
        assert kinds.count("second") == int(sweep.second)
        assert kinds.count("grid") == max(0, len(sweep.widths) * len(sweep.sparsities) - 1)
        assert {one.recipe.source for one in found} == {"activations", *(["second"] if sweep.second else [])}
        by_name = {one.name: one for one in passes(sweep, [0, 1, 2])}
        whole = by_name["main"].training
        assert by_name["soft"].training == whole, "the gap is at equal steps"
        for share in sweep.lengths:
            small = by_name[f"length{round(100 * share)}"].training
            for key in ("steps", "warmup", "dead_after"):
                assert getattr(small, key) == round(share * getattr(whole, key)), "the whole schedule is shorter"
            assert small.learning_rate == whole.learning_rate


def test_what_cannot_be_trained_is_refused_where_it_is_written():
    settings = load_replication("sparse_autoencoders", "smoke")
    for wrong in ([4, 8, 65], [0, 8]):
        with pytest.raises(ValueError, match="between 1 and the smallest width"):
            Sweep.model_validate({**settings.sweep.model_dump(), "sparsities": wrong})
    with pytest.raises(ValueError, match="asks for a second_layer"):
        Settings.model_validate(
            {**settings.model_dump(), "corpora": {**settings.corpora.model_dump(), "second_layer": None}}
        )
    with pytest.raises(ValueError, match="must be an earlier layer"):
        Settings.model_validate(
            {**settings.model_dump(), "corpora": {**settings.corpora.model_dump(), "second_layer": 9}}
        )


def test_exponents_of_a_planted_grid():
    rows = [{"width": w, "k": k, "fvu": 3 * w**-0.25 * k**-0.5} for w in (64, 256, 512) for k in (4, 8, 32)]
    found = exponents(pd.DataFrame(rows))
    assert (found["width_exponent"].value, found["k_exponent"].value) == pytest.approx((-0.25, -0.5))


def test_latents_are_described_by_their_strongest_tokens():
    """Latent 0 fires on token 7 alone, latent 1 on any token, latent 2 on too few, latent 3 never."""
    tokens = torch.arange(400) % 40
    pool = torch.zeros(400, 4)
    pool[tokens == 7, 0] = 1.0
    extra = torch.randperm(400, generator=torch.Generator().manual_seed(0))[: 3 * STRONGEST]
    pool[extra, 1] = torch.rand(len(extra), generator=torch.Generator().manual_seed(1)) + 0.1
    pool[:5, 2] = 1.0
    pool = torch.cat([pool, pool[:, :1].expand(400, 1) * (tokens == 7)[:, None]], 1)
    pool = pool.repeat(2, 1)
    found = described(lambda x: x, pool, tokens.repeat(2), 5)
    assert found["purity"][0] == 1
    assert found["token"][0] == 7
    assert found["purity"][1] < 0.5
    assert found["purity"].isna().tolist() == [False, False, True, True, False]
    assert found["fires"].tolist()[2:4] == [10, 0]


def test_examples_are_the_strongest_contexts_of_distinct_documents():
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    resid = torch.zeros(3, 4, 2)
    resid[0, 1, 0], resid[0, 2, 0], resid[1, 3, 0] = 3.0, 2.5, 2.0
    real = torch.ones(3, 4, dtype=torch.bool)
    used = real.clone()
    used[:, 0] = False
    held = HeldOut(1, tokens, real, used, torch.tensor([0, 4, 5]), resid)
    found = examples(lambda x: x, held, torch.tensor([0]), lambda ids: "".join(f"<{one}>" for one in ids))
    assert found["text"].tolist() == ["<1>[<2>]<3><4>", "<5><6><7>[<8>]"]


def spelled(ids):
    return "".join(chr(one) for one in ids)


def windows_of(texts):
    wide = max(map(len, texts))
    tokens = torch.tensor([[ord(one) for one in text] + [0] * (wide - len(text)) for text in texts])
    real = torch.arange(wide) < torch.tensor([len(text) for text in texts])[:, None]
    return HeldOut(1, tokens, real, real, torch.arange(len(texts)), torch.zeros(len(texts), wide, 2))


def test_patterns_mark_what_they_name():
    text = 'see https://a.org/b now. Is it "so" that 12 apples are food?\n- one 3.5\nimport os\nself.x = MAX_SIZE'
    text += "\n:param x: bread"
    held = windows_of([text])
    said = {
        name: "".join(np.array(list(text))[mark(held, pattern, spelled)[0].numpy()])
        for name, pattern in PATTERNS.items()
    }
    assert said["URL"] == "https://a.org/b"
    assert said["number"] == "123.5"
    assert said["import line"] == "import os"
    assert said["self.attribute"] == "self.x"
    assert said["CAPITALS"] == "MAX_SIZE"
    assert said["quoted words"] == '"so"'
    assert said["docstring field"] == ":param x:"
    assert said["food"] == "bread"
    assert said["question"].startswith("Is it")
    assert said["question"].endswith("?")
    for pattern in PATTERNS.values():
        re.compile(pattern)


def test_the_best_unit_is_chosen_on_one_half_and_judged_on_the_other():
    """Unit 2 is the pattern with noise below a threshold; unit 0 looks perfect on the first half alone."""
    dice = torch.Generator().manual_seed(0)
    document = np.repeat(np.arange(40), 50)
    first = document < 20
    truth = torch.rand(2000, generator=dice) < 0.1
    values = torch.rand(2000, 4, generator=dice)
    values[:, 2] = 0.3 * values[:, 2] + truth
    values[:500, 2] = 0
    truth[:500] = False
    [found] = choose(values, {"p": truth}, document, first).values()
    assert found.unit == 2
    assert found.density == 0.75, "it fires wherever it is above 0"
    assert found.above.sum() / found.below.sum() > 0.95
    assert (found.sensitivity, found.precision) == pytest.approx((1, 1), abs=0.1)
    assert len(found.above) == 20, "documents of the choice are neither judged nor counted"
    luck = values.clone()
    luck[:, 0] = torch.where(torch.from_numpy(first), 2.0 * truth, values[:, 0])
    luck[:, 2] = values[:, 3]
    [fooled] = choose(luck, {"p": truth}, document, first).values()
    assert fooled.unit == 0
    assert fooled.above.sum() / fooled.below.sum() < 0.3
    metrics = summary({"latents": [{"p": found}, {"p": found}], "coordinates": [{"p": fooled}]}, ["p"])
    assert metrics["named_f1"].uncertainty.count == 20
    assert metrics["named_f1"].per_seed == pytest.approx([metrics["named_f1"].value] * 2)
    beside = metrics["named_f1"].control("coordinates")
    assert beside.difference.value == pytest.approx(metrics["named_f1"].value - beside.value)
    assert beside.difference.ci_low > 0.5


@pytest.mark.parametrize("sizes", [(12, 12), (12, 9), (9, 12)])
def test_a_pair_asked_for_in_the_other_order_has_the_same_partners(sizes, monkeypatch):
    folders = [Path("one"), Path("other")]
    rows = {folder: (torch.randn(n, 6), torch.randn(n, 6)) for folder, n in zip(folders, sizes, strict=True)}
    match = Matcher()
    monkeypatch.setattr(match, "read", rows.__getitem__)
    match(*folders)
    again = match(*reversed(folders))
    fresh = Matcher()
    monkeypatch.setattr(fresh, "read", rows.__getitem__)
    assert all(map(torch.equal, again, fresh(*reversed(folders))))
    assert int((again[0] != 0).sum()) == min(sizes)


def test_overlap_stands_beside_that_of_shorter_and_of_soft_frozen_dictionaries():
    kinds = {("batch_topk", 1.0): 0.3, ("short0.1", 0.1): 0.01, ("short0.3", 0.3): 0.1, ("soft", 1.0): 0.0}
    rows = [
        {"seed": seed, "share": share, "kind": kind, "live": 1.0, "start_cosine": 0.5, "purity": 0.5,
         "overlap": overlap + 0.01 * seed, "overlap_random": float("nan") if kind == "soft" else 0.002}
        for (kind, share), overlap in kinds.items() for seed in (0, 1)
    ]  # fmt: skip
    found = summary_of_latents(pd.DataFrame(rows), [0.2, 0.2])["overlap"]
    assert found.value == pytest.approx(0.305)
    expected = {"random_directions": 0.002, "soft_frozen": 0.005, "after_10_percent": 0.015, "after_30_percent": 0.105}
    assert {one.name: one.value for one in found.controls} == pytest.approx(expected)


def test_thresholds_keep_the_share_asked_for():
    values = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    ranked = values.T.sort(dim=1, descending=True).values
    kept = (values > kept_share(ranked, 0.1)).double().mean(0)
    assert kept.tolist() == pytest.approx([0.1] * 3, abs=0.002)
    assert (kept_share(ranked - 2, 0.5) == 0).all(), "a latent that is off stays off"
    assert both_signs(torch.tensor([[1.0, -2.0]])).tolist() == [[1, 0, 0, 2]]


def test_an_untrained_code_keeps_the_largest_coefficients():
    rows = torch.eye(4)
    code = untrained_code(torch.zeros(4), rows, 2)
    assert code(torch.tensor([[3.0, 1.0, 2.0, -5.0]])).tolist() == [[3, 0, 2, 0]]


def test_a_point_along_another_error_is_as_far_away():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    moved = along_error(lambda x: 0.9 * x, lambda x: x + torch.tensor([0.0, 2, 0, 0, 0, 0]))(x) - x
    torch.testing.assert_close(moved.norm(dim=1), 0.1 * x.norm(dim=1))
    assert (moved[:, [0, 2, 3, 4, 5]] == 0).all()


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


def test_rows_are_read_by_pursuit_whatever_their_lengths():
    dice = torch.Generator().manual_seed(3)
    rows, x = torch.randn(64, 6, generator=dice), torch.randn(40, 6, generator=dice)
    sweep = load_replication("sparse_autoencoders", "smoke").sweep.model_copy(update={"width": 64, "sparsity": 3})
    none = torch.zeros(64)
    sae = Sae(About("t", seed=7), "relu", rows.T.contiguous(), none, rows, torch.ones(6))
    mean = torch.full((6,), 0.5)
    trained, untrained = pursuits([sae], mean, sweep)
    assert (trained.name, trained.kind, untrained.name, untrained.kind) == (
        "pursuit-7", "pursuit", "untrained_pursuit-3", "untrained_pursuit",
    )  # fmt: skip
    unit = torch.nn.functional.normalize(rows, dim=1)
    slow = Sae(About("t"), "matching_pursuit", unit.T, none, unit, torch.ones(6), k=3)
    assert torch.allclose(trained.reconstruct(x[None]), slow.reconstruct(x)[None], atol=1e-4)
    assert torch.allclose(untrained.reconstruct(mean[None]), mean[None]), "about the mean of the data, not of an SAE"


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


def test_documents_of_one_package_or_topic_are_one_group(tmp_path):
    held_out = {"docs": "aba", "chat": "ccad"}  # packages of three documents, topics of four; both have an "a"
    folders = [tmp_path / name for name in held_out]
    for folder, groups in zip(folders, held_out.values(), strict=True):
        documents = [
            Document(id=str(at), group=group, kind="chat", text=f"{at}{group}") for at, group in enumerate(groups)
        ]
        write_corpus(folder / "manifest.json", folder.name, {"held_out": documents, "train": documents[:1]}, "none")
    document = np.array([0, 0, 1, 2, CORPUS, CORPUS + 1, CORPUS + 3, CORPUS + 2])
    found = groups_of(document, folders, "held_out")
    assert np.unique(found, return_inverse=True)[1].tolist() == [0, 0, 1, 0, 3, 3, 4, 2]
    assert groups_of(document[:0], folders, "train").tolist() == []


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
        for kind in ("batch_topk", "short0.5", "pursuit", *CONTROLS):
            [name] = names(kind, sweep, [seed])
            cost, missed = (1 + seed, 0.2 + 0.2 * seed) if kind in ("batch_topk", "pursuit") else (5, 0.5)
            missed = 0.4 if kind == "short0.5" else missed
            found[name], sums[name] = Effect(2 + cost * size, ones), (missed * size, size)
    costs = cost_metrics(found, document, sweep, seeds)
    recovered = costs["recovered"]
    assert recovered.per_seed == pytest.approx([0.9, 0.8])
    assert (recovered.uncertainty.unit, recovered.uncertainty.count) == ("documents and seeds", 2)
    assert [control.value for control in recovered.controls] == pytest.approx([0.5] * 6)
    pursued = costs["recovered_by_pursuit"]
    assert (pursued.value, [one.name for one in pursued.controls]) == (
        recovered.value,
        ["clusters", "untrained_pursuit"],
    )
    assert costs["delta_ce"].per_seed == pytest.approx([2, 4])
    assert costs["delta_ce"].control("mean_ablation").value == pytest.approx(20)
    topics = cost_metrics(found, np.zeros_like(document), sweep, seeds, "topics")["recovered"]
    assert (topics.uncertainty.unit, topics.uncertainty.count, topics.value) == ("topics and seeds", 1, recovered.value)
    share = soft_share(sums, document, sweep, seeds)
    assert share.per_seed == pytest.approx([0.5 / 0.8, 0.5 / 0.6])
    assert share.control("after_50_percent").per_seed == pytest.approx([0.6 / 0.8, 0.6 / 0.6])
    assert share.control("after_50_percent").value == pytest.approx(1.2 / 1.4)


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
    assert row["gamma"] == pytest.approx(float(found.double().square().sum() / (x.double() * found).sum()), rel=1e-6)
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
