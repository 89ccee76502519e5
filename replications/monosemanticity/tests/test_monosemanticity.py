"""The one-layer model, counts, explanations and named features against literal versions and planted units."""

import itertools

import numpy as np
import pytest
import torch

from common.toys.transformer import forward, token_losses
from replications.monosemanticity.explain import (
    PRIOR,
    distinguishing_tokens,
    explained,
    means,
    pair_table,
    predicted,
)
from replications.monosemanticity.model import HOOK
from replications.monosemanticity.named import (
    ablation_cost,
    choose,
    detect,
    one_hot_tokens,
    pattern_means,
    pattern_shares,
    push_effect,
    pushed,
    readouts,
    symbol_units,
    tokens_of_patterns,
)
from replications.monosemanticity.ngrams import OPTIONS, ngram_losses
from replications.monosemanticity.patterns import PATTERNS, labels
from replications.monosemanticity.replacement import largest
from replications.monosemanticity.units import Kind, at_rates, purity, rotation
from tests.fixtures.monosemanticity_tiny import (
    LABELS,
    LENGTH,
    READING,
    SHAPE,
    TEXT,
    TOKENS,
    VOCAB,
    WEIGHTS,
    WINDOWS,
    WORDS,
    planted,
)


def test_neurons_and_losses_are_those_of_the_whole_model():
    seen = {}
    logits = forward(WEIGHTS, TOKENS[None], SHAPE, visit=lambda name, value: seen.setdefault(name, value))
    torch.testing.assert_close(READING.x, seen[HOOK][0, :, 1:-1].flatten(0, 1))
    literal = token_losses(logits, TOKENS[None])[0, :, 1:].flatten().double()
    torch.testing.assert_close(READING.losses(READING.x, TEXT.following), literal, atol=1e-5, rtol=0)
    cut = {**WEIGHTS, "blocks.0.mlp.W_out": torch.zeros_like(WEIGHTS["blocks.0.mlp.W_out"])}
    without = token_losses(forward(cut, TOKENS[None], SHAPE), TOKENS[None])[0, :, 1:].flatten().double()
    zero = READING.losses(torch.zeros_like(READING.x), TEXT.following)
    torch.testing.assert_close(zero, without, atol=1e-5, rtol=0)


def test_tokens_have_their_own_neighbours_and_labels():
    assert len(TEXT.token) == WINDOWS * (LENGTH - 2)
    at = 5 * TEXT.wide + 2
    assert [int(one[at]) for one in (TEXT.previous, TEXT.token, TEXT.following)] == TOKENS[5, 2:5].tolist()
    assert (TEXT.labels[at] == LABELS[5, 3]).all()
    assert (TEXT.next_labels[at] == LABELS[5, 4]).all()
    assert not set(TEXT.document[TEXT.scored.numpy()]) & set(TEXT.document[~TEXT.scored.numpy()])


def test_counts_predict_as_a_literal_table():
    stream = np.random.default_rng(0).integers(3, size=300)
    a, b, c = np.random.default_rng(1).integers(3, size=(3, 20))
    found = ngram_losses(stream, 3, a, b, c)
    pairs, triples = (
        list(itertools.pairwise(stream)),
        list(zip(stream, stream[1:], stream[2:], strict=False)),
    )
    p1 = np.array([(np.sum(stream == one) + 1) / 303 for one in c])
    np.testing.assert_allclose(found["unigrams"], -np.log(p1))
    options = {}
    for m2 in OPTIONS:
        p2 = (np.array([pairs.count(one) for one in zip(b, c, strict=True)]) + m2 * p1) / (
            np.array([np.sum(stream == one) for one in b]) + m2
        )
        for m3 in OPTIONS:
            above = np.array([triples.count(one) for one in zip(a, b, c, strict=True)])
            below = np.array([pairs.count(one) for one in zip(a, b, strict=True)])
            options[m2, m3] = -np.log(p2), -np.log((above + m3 * p2) / (below + m3))
    assert any(
        np.allclose(found["bigrams"], two) and np.allclose(found["trigrams"], three) for two, three in options.values()
    )


def test_a_model_of_pairs_is_worth_pairs_and_of_triples_more():
    """A stream in which two tokens decide the third: trigrams must come out ahead."""
    rng = np.random.default_rng(0)
    stream = list(rng.integers(2, size=2))
    for _ in range(4000):
        stream.append(stream[-1] ^ stream[-2] if rng.random() < 0.95 else int(rng.integers(2)))
    stream = np.array(stream)
    found = {name: one.mean() for name, one in ngram_losses(stream, 2, stream[:-2], stream[1:-1], stream[2:]).items()}
    assert found["trigrams"] < 0.2 < found["bigrams"] - 0.3


@pytest.mark.parametrize(
    ("pattern", "text", "inside"),
    [
        ("number", "a1 = 23.5", "23.5"),
        ("constant", "set MAX_LEN to Max", "MAX_LEN"),
        ("brackets", "x[1:n] (y)", "[1:n]"),
        ("literal", "use ``None`` or `x`", "``None``"),
        ("import", "x\n  from a.b import c\ny", "from a.b import c"),
    ],
)
def test_patterns_mark_their_tokens_and_no_others(pattern, text, inside):
    column = list(PATTERNS).index(pattern)
    start = text.index(inside)
    offsets = [(start, start + len(inside)), (max(0, start - 1), start), (start, len(text) + 0)]
    found = labels(text, offsets)[:, column]
    assert found[0]
    assert len(text) == start + len(inside) or not found[2]
    assert not found[1] or text[start - 1].isspace()


def test_a_blank_before_a_token_does_not_take_it_out_of_its_pattern():
    column = list(PATTERNS).index("number")
    assert labels("x 12 y", [(0, 1), (1, 4), (4, 6)])[:, column].tolist() == [False, True, False]


def test_tables_of_two_tokens_predict_what_they_decide_and_nothing_else():
    score = explained(planted(), TEXT)
    assert score.all[0] > 0.99
    assert abs(score.within[0]) < 0.1  # nothing is left beyond the token
    assert score.all[1] > 0.9
    assert score.within[1] > 0.9
    assert abs(score.all[2]) < 0.15
    assert abs(score.within[2]) < 0.15
    assert score.token[0] > 0.99
    assert score.token[1] < 0.5


def test_predictions_never_see_the_judged_documents():
    changed = planted()
    changed[TEXT.scored] = 0
    torch.testing.assert_close(predicted(changed, TEXT), predicted(planted(), TEXT))


def test_means_by_key_are_the_literal_ones():
    values, key = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    literal = torch.stack([values[key == one].mean(0) for one in range(4)])
    torch.testing.assert_close(means(values, key, 4), literal)
    shrunk = torch.stack([(values[key == one].sum(0) + 2 * 7.0) / ((key == one).sum() + 2) for one in range(5)])
    torch.testing.assert_close(means(values, key, 5, torch.full((1, 3), 7.0)), shrunk)


def test_the_tokens_of_a_unit_are_named():
    assert distinguishing_tokens(planted()[:, 0] > 0, TEXT, WORDS, 1) == [" w3"]
    assert distinguishing_tokens(TEXT.previous == 5, TEXT, WORDS, 1) == ["after  w5"]


def test_the_planted_detector_is_chosen_and_worth_its_literal_f1():
    made, judged = ~TEXT.scored, TEXT.scored
    units = torch.cat([torch.rand(len(TEXT.token), 4), TEXT.labels[:, :1] * 5.0, planted()], 1)
    choice = choose(units[made], TEXT.labels[made])
    assert choice.unit[0] == 4
    found = detect(units[judged], TEXT.labels[judged], choice)
    assert found.f1[0] == 1
    half = units.clone()
    half[:, 4] *= TEXT.token == 3  # of two tokens of the pattern it knows one
    choice = choose(half[made], TEXT.labels[made])
    found = detect(half[judged], TEXT.labels[judged], choice)
    assert found.precision[0] == 1
    share = float((TEXT.token[judged] == 3).sum() / TEXT.labels[judged][:, 0].sum())
    assert float(found.recall[0]) == pytest.approx(share)
    assert float(found.f1[0]) == pytest.approx(2 * share / (1 + share))
    tokens = one_hot_tokens(TEXT, VOCAB)
    assert choose(tokens[made], TEXT.labels[made]).unit[0] in (3, 7)


def scores_of_symbols(labels):
    """Mean F1 on judged documents of what knows the symbols alone."""
    text = TEXT._replace(labels=labels)
    made, judged = ~text.scored, text.scored
    units = symbol_units(text, VOCAB)
    return {
        name: float(detect(one[judged], labels[judged], choose(one[made], labels[made])).f1[0])
        for name, one in units.items()
    }


def test_sets_of_tokens_and_tables_of_pairs_detect_what_they_decide():
    found = scores_of_symbols(TEXT.labels[:, :1])  # two tokens
    assert found["single_token"] < 0.8
    assert found["token_set"] == found["token_pairs"] == 1
    both = (TEXT.previous < 6) != (TEXT.token < 6)
    found = scores_of_symbols(both[:, None])
    assert found["token_set"] < 0.75  # no better than always
    assert found["token_pairs"] > 0.98


def test_shares_of_patterns_are_literal_and_no_token_counts_itself():
    made, labels = ~TEXT.scored, TEXT.labels.float()
    for pairs in (False, True):
        found = pattern_shares(TEXT, pairs=pairs)
        for row in [*range(3), *range(len(made) - 3, len(made)), int(made.nonzero()[0])]:
            token = made & (TEXT.token == TEXT.token[row])
            same = token & (TEXT.previous == TEXT.previous[row])
            mean = (labels[token].sum(0) + PRIOR * labels[made].mean(0)) / (token.sum() + PRIOR)
            prior, use = (mean, same) if pairs else (labels[made].mean(0), token)
            own = int(made[row])
            above = labels[use].sum(0) + PRIOR * prior - own * labels[row]
            torch.testing.assert_close(found[row], above / (use.sum() + PRIOR - own), atol=1e-5, rtol=0)
    changed = TEXT._replace(labels=TEXT.labels ^ TEXT.scored[:, None])
    torch.testing.assert_close(pattern_shares(changed), pattern_shares(TEXT))  # judged labels are never seen


def test_a_pair_that_was_never_seen_has_the_mean_of_its_token():
    values = torch.tensor([[1.0], [3.0], [5.0]])
    table = pair_table(values, torch.tensor([0, 0, 1]), torch.tensor([2, 2, 2]), 4)
    token = (9 + PRIOR * 3) / (3 + PRIOR)
    previous, present = torch.tensor([0, 1, 3, 0]), torch.tensor([2, 2, 2, 3])
    expected = [(4 + PRIOR * token) / (2 + PRIOR), (5 + PRIOR * token) / (1 + PRIOR), token, 3]
    torch.testing.assert_close(table.at(previous, present)[:, 0], torch.tensor(expected))
    assert table.at(previous, present, pairs=False)[:, 0].tolist() == pytest.approx([token] * 3 + [3])


def test_pushing_along_what_writes_the_pattern_raises_its_tokens():
    members = tokens_of_patterns(TEXT, VOCAB)
    assert members[0].nonzero()[:, 0].tolist() == [3, 7]
    writes = READING.to_middle @ READING.to_logits  # [d_mlp d_vocab]
    direction = (writes[:, 3] - writes.mean(1))[None]
    kind = Kind(planted()[:, :1], direction, READING)
    choice = choose(planted()[~TEXT.scored][:, :1], TEXT.labels[~TEXT.scored])
    assert push_effect(kind, choice, members, TEXT, 100)[0] > 0.3
    assert push_effect(kind._replace(rows=-direction), choice, members, TEXT, 100)[0] < -0.1
    assert push_effect(kind._replace(rows=0 * direction), choice, members, TEXT, 100)[0] == 0


def test_directions_of_labels_and_of_tokens_are_what_they_say():
    means = pattern_means(READING, TEXT)
    made = ~TEXT.scored
    inside = TEXT.labels[:, 0]
    expected = READING.x[made & inside].mean(0) - READING.x[made & ~inside].mean(0)
    torch.testing.assert_close(means[0], expected)
    members = tokens_of_patterns(TEXT, VOCAB)
    out = readouts(READING, members)[0]
    gains = READING.to_middle @ READING.to_logits
    torch.testing.assert_close(out, gains[:, members[0]].mean(1) - gains[:, ~members[0]].mean(1))
    assert pushed(READING, readouts(READING, members), members, TEXT, 100)[0] > 0.3


def test_ablating_a_silent_direction_costs_nothing_and_another_one_its_literal_loss():
    rows = READING.x.mean(0, keepdim=True)
    kind = Kind(planted()[:, :1], rows, READING)
    choice = choose(kind.activations[~TEXT.scored], TEXT.labels[~TEXT.scored])
    assert (ablation_cost(kind._replace(rows=0 * rows), choice, TEXT) == 0).all()
    edited = READING.x - kind.activations * rows
    added = READING.losses(edited, TEXT.following) - READING.losses(READING.x, TEXT.following)
    use = TEXT.scored & (kind.activations[:, 0] > choice.threshold[0])
    inside, outside = ablation_cost(kind, choice, TEXT)[:, 0].tolist()
    assert inside == pytest.approx(float(added[use & TEXT.next_labels[:, 0]].mean()), abs=1e-5)
    assert outside == pytest.approx(float(added[use & ~TEXT.next_labels[:, 0]].mean()), abs=1e-5)


def test_all_of_the_neurons_are_the_activation():
    x = torch.randn(5, 32)
    torch.testing.assert_close(largest(x, x.mean(0), 32), x)


def test_cut_off_units_have_the_rates_of_latents_and_keep_their_order():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -1.0, 0.0])
    found = at_rates(x, np.array([0.01, 0.2, 0.05]))
    np.testing.assert_allclose((found > 0).float().mean(0), [0.2, 0.01, 0.05], atol=0.001)
    assert set(found[:, 0].nonzero()[:, 0].tolist()) == set(x[:, 0].topk(400).indices.tolist())
    q = rotation(6, 0)
    torch.testing.assert_close(q @ q.mT, torch.eye(6), atol=1e-5, rtol=0)


def test_a_unit_of_one_token_is_pure_and_a_random_one_is_not():
    assert purity(planted()[:, :1], TEXT, 20) == 1
    assert purity(torch.rand(len(TEXT.token), 5), TEXT, 20) < 0.4
