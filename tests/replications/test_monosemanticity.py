"""Monosemanticity: the model and its scores against literal versions, planted units, and claims that can fail."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.claims import evaluate, load_claims
from common.network_settings import Architecture
from common.records import Metric
from common.saes.sae import About, Sae
from common.transformer import forward, initial_weights, token_losses
from replications.monosemanticity.dictionaries import recipe
from replications.monosemanticity.explain import auroc, exchanged, explain, purity, quarters, scored, shown
from replications.monosemanticity.families import Level, families_of, largest_families
from replications.monosemanticity.measure_dictionaries import loss_metrics, rises, splitting_metrics
from replications.monosemanticity.measure_units import logit_metrics, unit_metrics
from replications.monosemanticity.model import HOOK, activations, losses
from replications.monosemanticity.reconstruction import largest, ngram_losses, resampled_rise
from replications.monosemanticity.settings import Dictionaries, Text
from replications.monosemanticity.structure import (
    best_correlations,
    logit_correlations,
    nesting,
    sibling_overlap,
    split_share,
    together,
)
from replications.monosemanticity.tokenise import windows_of
from replications.monosemanticity.units import at_rates, read_text, rotation, sparse

VOCAB, WINDOWS, LENGTH = 12, 40, 17
SHAPE = Architecture(
    n_layers=1, keys="plain", positions="rotary", mlp="relu", d_model=8, n_heads=2, d_head=4, d_vocab=VOCAB,
    n_ctx=LENGTH,
)  # fmt: skip
WEIGHTS = initial_weights(SHAPE, [3])
TOKENS = torch.randint(VOCAB, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(0))
TEXT = read_text(TOKENS, torch.arange(WINDOWS) // 2)


def firings(fires, seed=0):
    """A table [token unit] of where units fire, with random values."""
    values = np.random.default_rng(seed).uniform(0.1, 1, fires.shape) * fires
    return sparse(lambda part: torch.from_numpy(values[part]), len(fires)), values


def planted():
    """A unit for two tokens, one for a previous token, one that fires at random."""
    rng = np.random.default_rng(1)
    return np.stack([np.isin(TEXT.token, [3, 7]), TEXT.previous == 5, rng.random(TEXT.size()) < 0.2], 1)


def test_neurons_are_those_of_the_literal_mlp_and_reach_the_logits():
    seen = {}

    def visit(name, value):
        return seen.setdefault(name, value)

    def visit_cut(name, value):
        return seen.setdefault("cut " + name, value)

    logits = forward(WEIGHTS, TOKENS[None], SHAPE, visit=visit)
    found = activations(WEIGHTS, TOKENS, SHAPE)
    torch.testing.assert_close(found, seen[HOOK][0])
    assert found.shape == (WINDOWS, LENGTH, 32)
    cut = {**WEIGHTS, "blocks.0.mlp.W_out": torch.zeros_like(WEIGHTS["blocks.0.mlp.W_out"])}
    middle = seen["blocks.0.hook_resid_post"][0] - found @ WEIGHTS["blocks.0.mlp.W_out"][0]
    torch.testing.assert_close(forward(cut, TOKENS[None], SHAPE, visit=visit_cut), forward(cut, TOKENS[None], SHAPE))
    torch.testing.assert_close(seen["cut blocks.0.hook_resid_post"][0], middle, atol=1e-5, rtol=0)
    normal = torch.nn.functional.layer_norm(middle, middle.shape[-1:])
    torch.testing.assert_close(found, (normal @ WEIGHTS["blocks.0.mlp.W_in"][0]).relu(), atol=1e-4, rtol=0)
    torch.testing.assert_close(losses(WEIGHTS, TOKENS, SHAPE), token_losses(logits, TOKENS[None])[0])


def test_replacing_by_the_same_changes_nothing_and_zero_is_no_mlp_behind_the_first_position():
    clean = losses(WEIGHTS, TOKENS, SHAPE)
    torch.testing.assert_close(losses(WEIGHTS, TOKENS, SHAPE, lambda x: x), clean)
    cut = {**WEIGHTS, "blocks.0.mlp.W_out": torch.zeros_like(WEIGHTS["blocks.0.mlp.W_out"])}
    zero, without = losses(WEIGHTS, TOKENS, SHAPE, torch.zeros_like), losses(cut, TOKENS, SHAPE)
    torch.testing.assert_close(zero[:, 1:], without[:, 1:])
    torch.testing.assert_close(zero[:, 0], clean[:, 0])
    x = torch.randn(5, 32)
    torch.testing.assert_close(largest(x.mean(0), 32)(x), x)


def test_counts_predict_as_a_literal_table():
    stream = np.random.default_rng(0).integers(4, size=400)
    windows = np.random.default_rng(1).integers(4, size=(3, 9))
    unigram = [(sum(stream == b) + 1) / 404 for b in range(4)]
    found = ngram_losses(stream, windows, 4)
    assert found["unigram"] == pytest.approx(-np.mean([np.log(unigram[b]) for row in windows for b in row[1:]]))
    pairs = list(pairwise(stream))
    literal = []
    for m in (3.0, 10.0, 30.0, 100.0, 300.0):
        each = []
        for row in windows:
            for a, b in pairwise(row):
                n = sum(one == a for one, _ in pairs)
                each.append(-np.log((sum(one == (a, b) for one in pairs) + m * unigram[b]) / (n + m)))
        literal.append(np.mean(each))
    assert min(abs(found["bigram"] - one) for one in literal) < 1e-12


def test_planted_units_are_explained_and_random_ones_are_not():
    found, _ = firings(planted())
    explained = explain(found, TEXT, VOCAB, 2)
    assert set(explained.ranked[0]) == {3, 7}
    assert explained.ranked[1][0] == 5
    assert explained.previous.tolist()[:2] == [False, True]
    detection, fuzzing = scored(explained, found, TEXT, 4)
    every = np.ones((detection.alarms.shape[1], 1), dtype=np.float32)
    assert fuzzing.accuracy(every)[0, 0] == 1
    assert detection.accuracy(every)[0, 0] == 1
    assert auroc(explained, found, TEXT)[0] == 1
    for tally in (detection, fuzzing):
        assert abs(tally.accuracy(every)[2, 0] - 0.5) < 0.12
    assert abs(auroc(explained, found, TEXT)[2] - 0.5) < 0.12
    assert purity(found, TEXT, VOCAB)[0] < 0.7
    alone, _ = firings((TEXT.token == 4)[:, None])
    assert purity(alone, TEXT, VOCAB)[0] == 1


def test_scores_are_the_literal_ones():
    found, values = firings(planted())
    explained = explain(found, TEXT, VOCAB, 2)
    wide, context = LENGTH - 1, 4
    told = np.stack(
        [explained.members[u, TEXT.previous if explained.previous[u] else TEXT.token] for u in range(3)], axis=1
    )
    expected = {"detection": [], "fuzzing": []}
    for u in range(3):
        contexts = [
            range(w * wide + s, min(w * wide + s + context, (w + 1) * wide))
            for w in range(WINDOWS)
            for s in range(0, wide, context)
            if TEXT.scored[w * wide]
        ]
        best = np.array([max(values[t, u] for t in one) for one in contexts])
        said = np.array([any(told[t, u] for t in one) for one in contexts])
        on = [t for t in range(TEXT.size()) if TEXT.scored[t] and values[t, u] > 0]
        off = [t for one, top in zip(contexts, best, strict=True) if top > 0 for t in one if values[t, u] == 0]
        for name, positive, hits, alarms in (
            ("detection", best[best > 0], said[best > 0], said[best == 0]),
            ("fuzzing", values[on, u], told[on, u], told[off, u]),
        ):
            part = quarters(np.zeros(len(positive), dtype=int), positive, 1)
            recall = np.mean([hits[part == q].mean() for q in range(4)])
            expected[name].append((recall + 1 - alarms.mean()) / 2)
        by_token = explained.rates[u][TEXT.previous if explained.previous[u] else TEXT.token][TEXT.scored]
        area = roc_auc_score(values[TEXT.scored, u] > 0, by_token)
        assert auroc(explained, found, TEXT)[u] == pytest.approx(area)
    for name, tally in zip(expected, scored(explained, found, TEXT, context), strict=True):
        every = np.ones((tally.alarms.shape[1], 1), dtype=np.float32)
        np.testing.assert_allclose(tally.accuracy(every)[:, 0], expected[name], atol=1e-5)
        np.testing.assert_allclose(tally.by_quarter().mean(0), expected[name], atol=1e-5)


def test_quarters_hold_as_many_and_the_first_is_the_strongest():
    unit, value = np.repeat([0, 1], [8, 4]), np.random.default_rng(0).random(12)
    found = quarters(unit, value, 2)
    assert np.bincount(found[:8]).tolist() == [2, 2, 2, 2]
    assert found[:8][value[:8].argmax()] == found[8:][value[8:].argmax()] == 0
    assert found[:8][value[:8].argmin()] == 3


def test_cut_off_units_have_the_rates_of_latents_and_keep_their_order():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -1.0, 0.0])
    found = at_rates(x, np.array([0.01, 0.2, 0.05]))
    rates = np.bincount(found.unit) / 2000
    np.testing.assert_allclose(rates, [0.2, 0.01, 0.05], atol=0.001)
    on = set(found.place[found.unit == 0])
    assert on == set(x[:, 0].topk(400).indices.tolist())
    q = rotation(6, 0)
    torch.testing.assert_close(q @ q.mT, torch.eye(6), atol=1e-5, rtol=0)


def test_everybody_gets_an_explanation_of_somebody_else():
    rates = np.random.default_rng(0).random(57)
    order = exchanged(rates, np.random.default_rng(1))
    assert sorted(order) == list(range(57))
    assert not (order == np.arange(57)).any()
    rank = np.argsort(np.argsort(rates))
    assert np.abs(rank[order] - rank).max() < 10


def test_logit_weights_that_are_the_lift_correlate_fully():
    found, _ = firings(planted())
    real = TEXT.following >= 0
    seen = np.bincount(TEXT.following[real], minlength=VOCAB)
    share = np.where(seen >= 10, seen, 0) / seen[seen >= 10].sum()
    lift = np.zeros((3, VOCAB))
    for u in range(3):
        after = TEXT.following[found.place[found.unit == u]]
        counts = np.array([(after == v).sum() if seen[v] >= 10 else 0 for v in range(VOCAB)])
        lift[u] = counts / counts.sum() / share
    np.testing.assert_allclose(logit_correlations(2 * lift + 1, found, TEXT), 1)
    np.testing.assert_allclose(logit_correlations(-lift, found, TEXT), -1)
    other = np.random.default_rng(0).normal(size=lift.shape)
    for u, value in enumerate(logit_correlations(other, found, TEXT)):
        covariance = np.cov(np.stack([other[u], lift[u]]), aweights=share, bias=True)
        assert value == pytest.approx(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def test_children_of_a_planted_family_are_found_and_permuted_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    narrow = torch.nn.functional.normalize(torch.randn(6, 200, generator=generator), dim=1)
    noisy = narrow.repeat_interleave(2, 0) + 0.03 * torch.randn(12, 200, generator=generator)
    wide = torch.nn.functional.normalize(noisy, dim=1)
    on_narrow = torch.rand(3000, 6, generator=generator) < 0.1
    halves = torch.rand(3000, 6, 1, generator=generator) < 0.5
    on_wide = (on_narrow[:, :, None] & torch.cat([halves, ~halves], 2)).flatten(1)
    found = nesting(wide, narrow, together(on_wide, on_narrow))
    assert found.parent.tolist() == [i // 2 for i in range(12)]
    assert found.inside.min() == 1
    assert split_share(found, 6, 0.5, 0.5) == 1
    assert sibling_overlap(found, on_wide, 0.5, 0.5) == (0.0, 6)
    null = nesting(wide[:, torch.randperm(200, generator=generator)], narrow, together(on_wide, on_narrow))
    assert null.cosine.max() < 0.5
    assert split_share(null, 6, 0.5, 0.5) == 0


def test_a_unit_finds_its_twin_in_a_permuted_copy():
    x = torch.rand(500, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(best_correlations(x, 3 * x[:, [4, 2, 0, 1, 3]] + 1), 1, atol=1e-5)
    y = torch.rand(500, 4, generator=torch.Generator().manual_seed(1))
    literal = np.corrcoef(x.numpy().T, y.numpy().T)[:5, 5:].max(1)
    np.testing.assert_allclose(best_correlations(x, y), literal, atol=1e-5)


def test_a_rise_between_equal_ways_is_nothing():
    rng = np.random.default_rng(0)
    one = {"clean": rng.random(8), "a": rng.random(8) + 1, "zero": rng.random(8) + 2}
    one["b"] = one["a"] - 0.1
    document = np.arange(8) // 2
    assert resampled_rise([one], document, "a", "a", "zero").tolist() == [0.0] * 1000
    draws = resampled_rise([one], document, "b", "a", "zero")
    assert draws.min() > 0
    assert draws.mean() == pytest.approx(0.1 / (one["zero"] - one["clean"]).mean(), rel=0.1)


def test_windows_are_whole_and_of_one_document():
    text = Text(d_vocab=64, characters=10_000, length=16, windows=8, per_document=2)
    rows = [list(range(15)), list(range(33)), list(range(70))]
    windows, document = windows_of(rows, text)
    assert document == [1, 1, 2, 2]
    assert windows[1] == list(range(16, 32))


def test_no_two_dictionaries_begin_alike():
    from common.saes.architectures.base import random_rows

    settings = Dictionaries(
        widths=[8, 16], width=16, sparsity=2, tokens=1000,
        training={"steps": 1, "batch": 2, "learning_rate": 0.1, "warmup": 0, "dead_after": 1},
    )  # fmt: skip
    seeds = [recipe(settings, width, 100 * 7 + at).seed for at, width in enumerate(settings.widths)]
    rows = [random_rows(w, 4, torch.Generator().manual_seed(s)) for w, s in zip(settings.widths, seeds, strict=True)]
    assert not torch.allclose(rows[0], rows[1][:8])
    same = random_rows(16, 4, torch.Generator().manual_seed(seeds[0]))
    torch.testing.assert_close(rows[0], same[:8])  # what would happen with one seed


def test_spaces_and_line_breaks_are_visible():
    assert shown(" a\n") == "␣a↵"
    assert shown("\x00") == "·"


def test_every_number_that_a_claim_names_is_measured():
    kinds = ("features", "neurons", "raw", "rotated", "untrained", "start", "shuffled")
    values = {f"{score}_{kind}": [0.1, 0.2] for score in ("detection", "fuzzing") for kind in kinds}
    made = {"units": set(unit_metrics(values, dict.fromkeys(kinds, [np.zeros(20)] * 2), 5))}
    made["logits"] = set(logit_metrics({f"logits_{kind}": [0.1, 0.2] for kind in kinds}))
    both = [
        {f"{one}{end}": 0.1 * i for one in ("inside", "nested") for end in ("", "_null", "_twin")} for i in range(2)
    ]
    made["splitting"] = set(splitting_metrics(both).found)
    names = [f"{kind}-{width}" for kind in ("trained", "start") for width in (8, 16)]
    rows = [
        {"name": name, "ce": 1.0 + i, "fvu": 0.5, "dead": 0.0, "l0": 2.0}
        for i, name in enumerate(("clean", *names, "twin", "components", "neurons", "mean", "zero"))
    ]
    found = loss_metrics([rows, rows], [8, 16], {"unigram": 3.0, "bigram": 2.0}, [5.0, 6.0]).found
    windows = [{str(row["name"]): np.full(4, row["ce"]) for row in rows}] * 2
    made["loss"] = set(found | rises(found, windows, np.arange(4), [8, 16]))
    for claim in load_claims("monosemanticity"):
        if claim.part in made:
            assert {claim.metric, claim.control.metric, claim.control.difference} <= made[claim.part], claim.id
    assert found["recovered_zero_components"].value == pytest.approx((rows[-1]["ce"] - rows[6]["ce"]) / 9)


def test_a_family_is_listed_with_its_children():
    rows = torch.nn.functional.normalize(torch.randn(2, 20, generator=torch.Generator().manual_seed(0)), dim=1)
    apart = 0.02 * torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    x = torch.zeros(TEXT.size(), 20)
    for place, token in ((0, 3), (1, 7)):
        x[torch.from_numpy(TEXT.token == token)] += rows[place]
    levels = []
    for one in (rows, rows.repeat_interleave(2, 0) + apart):
        sae = Sae(About("topk"), "topk", one.mT.contiguous(), torch.full((len(one),), -0.5), one, torch.zeros(20), k=2)
        levels.append(Level(sae, sae.encode(x) > 0))
    words = [f"w{i}" for i in range(VOCAB)]
    found = families_of(levels, x, TEXT, words, 1)
    assert [row["parent"] for row in found] == [-1, 0, 0, -1, 1, 1]
    assert [row["label"] for row in found if row["parent"] == -1] == ["w3", "w7"]
    assert min(row["cosine"] for row in found) > 0.9
    several = largest_families({4: found[:2], 6: found[3:]})
    assert [(row["family"], row["seed"]) for row in several] == [(1, 6), (1, 6), (1, 6), (2, 4), (2, 4)]


@pytest.mark.parametrize("claim", load_claims("monosemanticity"), ids=lambda claim: claim.id)
def test_each_claim_can_fail(claim):
    def metric(value):
        return Metric(value=value, ci_low=value - 0.001, ci_high=value + 0.001, n=3, unit="1", formula="planted")

    bound = claim.assertion.at_least
    names = claim.metric, claim.control.metric, claim.control.difference

    def verdict(effect, control):
        measured = dict(zip(names, map(metric, (effect, control, effect - control)), strict=True))
        return evaluate("monosemanticity", claim, "toy", measured).verdict

    assert verdict(bound + 0.1, bound - 0.1) == "reproduced"
    assert verdict(bound - 0.1, bound - 0.1) == "not reproduced"
    assert verdict(bound + 0.1, bound + 0.1) == "not reproduced"
