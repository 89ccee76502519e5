"""The one-layer model and the scores of explanations against literal versions and planted units."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.toys.transformer import forward, token_losses
from replications.monosemanticity.documents import drawn
from replications.monosemanticity.explain import auroc, exchanged, explain, quarters, scored, summed
from replications.monosemanticity.measure_units import judge
from replications.monosemanticity.model import HOOK, activations, losses
from replications.monosemanticity.quantiles import areas, known_mean, purity, ranking, resampled
from replications.monosemanticity.reconstruction import largest, ngram_losses
from replications.monosemanticity.units import at_rates, rotation
from tests.fixtures.monosemanticity_tiny import (
    LENGTH,
    SHAPE,
    TEXT,
    TOKENS,
    VOCAB,
    WEIGHTS,
    WINDOWS,
    firings,
    planted,
)


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
    neurons = activations(WEIGHTS, TOKENS, SHAPE)[:, 1:]
    torch.testing.assert_close(losses(WEIGHTS, TOKENS, SHAPE, neurons), clean)
    cut = {**WEIGHTS, "blocks.0.mlp.W_out": torch.zeros_like(WEIGHTS["blocks.0.mlp.W_out"])}
    zero, without = losses(WEIGHTS, TOKENS, SHAPE, torch.zeros_like(neurons)), losses(cut, TOKENS, SHAPE)
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
    once = resampled(TEXT, 0)
    assert known_mean(purity(found, TEXT, VOCAB, once), 0, 0.0)[0, 0] < 0.7
    alone, _ = firings((TEXT.token == 4)[:, None])
    assert (purity(alone, TEXT, VOCAB, once) == 1).all()
    by_quarter = ranking(explained, found, TEXT, 4, once)[..., 0]
    assert (by_quarter[:, 0] == 1).all()
    assert abs(by_quarter[:, 2].mean() - 0.5) < 0.12


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
    judged = judge(explained, found, TEXT, context, resampled(TEXT, 2)).units
    assert not np.allclose(expected["detection"], expected["fuzzing"], atol=0.01)
    for name, literal in expected.items():
        np.testing.assert_allclose(judged[name], literal, atol=1e-5, err_msg=name)


def test_ranking_and_purity_are_the_literal_ones_and_count_a_document_as_often_as_it_was_drawn():
    found, values = firings(planted())
    explained = explain(found, TEXT, VOCAB, 2)
    weights = resampled(TEXT, 3)
    judged = np.unique(TEXT.document[TEXT.scored])
    assert weights[judged].sum(0).tolist() == [len(judged)] * 4
    assert (drawn(len(judged), 3) == weights[judged, 1:].T).all()
    assert weights.sum(0).tolist() == [len(judged)] * 4
    assert (weights[judged, 0] == 1).all()
    area, pure = ranking(explained, found, TEXT, 4, weights), purity(found, TEXT, VOCAB, weights)
    wide = LENGTH - 1
    contexts = [np.arange(s, s + 4) for s in range(0, TEXT.size(), 4) if TEXT.scored[s]]
    times = np.stack([weights[TEXT.document[one[0]]] for one in contexts])
    assert wide % 4 == 0
    for u in range(3):
        key = TEXT.previous if explained.previous[u] else TEXT.token
        score = np.array([-np.log(1 - explained.rates[u, key[one]]).sum() for one in contexts], dtype=np.float32)
        best = np.array([values[one, u].max() for one in contexts])
        part = np.full(len(best), -1)
        part[best > 0] = quarters(np.zeros((best > 0).sum(), dtype=int), best[best > 0], 1)
        on = np.flatnonzero((values[:, u] > 0) & TEXT.scored)
        of = quarters(np.zeros(len(on), dtype=int), values[on, u], 1)
        made = TEXT.token[(values[:, u] > 0) & ~TEXT.scored]
        top = np.bincount(made, minlength=VOCAB).argmax()
        for q in range(4):
            use = (part == q) | (part == -1)
            for draw in range(4):
                literal = roc_auc_score(part[use] == q, score[use].round(4), sample_weight=times[use, draw])
                assert area[q, u, draw] == pytest.approx(literal, abs=0.01)
                own = weights[TEXT.document[on[of == q]], draw]
                assert pure[q, u, draw] == pytest.approx((own * (TEXT.token[on[of == q]] == top)).sum() / own.sum())


def test_ties_count_half_and_an_empty_quarter_is_left_out():
    one = np.ones((4, 1), dtype=np.float32)
    positive, negative = np.array([1.0, 1.0, 2.0, 0.0]), np.array([1.0, 0.0, 1.0, 3.0])
    found = areas(positive, negative, one, one, np.array([0, 0, 1, 2]))
    assert found[:3, 0].tolist() == [0.5, 0.75, 0.125]
    assert np.isnan(found[3, 0])
    np.testing.assert_allclose(known_mean(found[:, None], 0, 0.5), (0.5 + 0.75 + 0.125) / 3)
    assert np.isnan(areas(positive, negative[:0], one, one[:0], np.array([0, 0, 1, 2]))).all()  # fires everywhere
    assert known_mean(np.full((4, 2, 1), np.nan), 1, 0.5).tolist() == [[0.5]] * 4


def test_sums_over_contexts_are_the_literal_ones():
    values = np.random.default_rng(0).random((2, VOCAB)).astype(np.float32)
    group = np.arange(TEXT.size()) // 4
    found = summed(values, np.array([False, True]), TEXT, group, TEXT.scored)
    for place in range(int(group.max()) + 1):
        use = (group == place) & TEXT.scored
        expected = [values[0, TEXT.token[use]].sum(), values[1, TEXT.previous[use]].sum()]
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-5)


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


@pytest.mark.parametrize("count", [57, 51])
def test_everybody_gets_an_explanation_of_somebody_else(count):
    rates = np.random.default_rng(0).random(count)
    order = exchanged(rates, np.random.default_rng(1))
    assert sorted(order) == list(range(count))
    assert not (order == np.arange(count)).any()
    rank = np.argsort(np.argsort(rates))
    assert np.abs(rank[order] - rank).max() < 10
