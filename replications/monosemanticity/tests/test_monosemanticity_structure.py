"""Logit weights, families, twins, windows and starts on planted cases, and claims that can fail."""

import numpy as np
import pytest
import torch

from common.core.claims import load_claims
from common.core.verdicts import judge_landmark
from common.saes.sae import About, Sae
from replications.monosemanticity.dictionaries import recipe
from replications.monosemanticity.documents import drawn
from replications.monosemanticity.explain import Explanations, exchanged, explain, visible
from replications.monosemanticity.families import Level, clearest_families, families_of, label
from replications.monosemanticity.language_scorer import scorer_metrics
from replications.monosemanticity.loss_metrics import document_metrics, model_metrics, replacement_metrics
from replications.monosemanticity.measure_dictionaries import (
    nest,
    splitting_metrics,
    summary,
    universal,
    universality_metrics,
)
from replications.monosemanticity.measure_units import CONTROLS, Scores, judge, logit_metrics, unit_metrics
from replications.monosemanticity.quantiles import resampled
from replications.monosemanticity.reconstruction import luck, resampled_recovery, rise
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
from replications.monosemanticity.units import read_text
from tests.fixtures.monosemanticity_tiny import LENGTH, TEXT, VOCAB, WINDOWS, firings, planted

SIZES = Dictionaries(
    widths=[8, 16], width=16, twins=1, sparsity=2, tokens=1000,
    training={"steps": 1, "batch": 2, "learning_rate": 0.1, "warmup": 0, "dead_after": 1},
)  # fmt: skip
KINDS = ("features", "narrow", "relu", "neurons", "raw", "rotated", "untrained", "start")


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


def test_a_rise_between_equal_ways_is_nothing_and_luck_is_never_negative():
    rng = np.random.default_rng(0)
    one = {"clean": rng.random(8), "a": rng.random(8) + 1, "zero": rng.random(8) + 2}
    one["b"] = one["a"] - 0.1
    document = np.arange(8) // 2
    a, same, b = resampled_recovery([one], document, ["a", "a", "b"], "zero")
    assert a.shape == (1, 1000)
    assert rise(a, np.stack([a, same])).tolist() == luck(np.stack([a, same])).tolist() == np.zeros((1, 1000)).tolist()
    times = np.repeat(drawn(4, 1000), 2, axis=1)
    literal = [np.average(one["zero"] - one["a"], weights=w) for w in times]
    literal /= np.array([np.average(one["zero"] - one["clean"], weights=w) for w in times])
    np.testing.assert_allclose(a[0], literal)
    draws = rise(b, np.stack([a, same]))
    assert draws.min() > 0
    assert draws.mean() == pytest.approx(0.1 / (one["zero"] - one["clean"]).mean(), rel=0.1)
    np.testing.assert_allclose(luck(np.array([[0.3], [0.6], [0.0]])), [0.3])
    np.testing.assert_allclose(rise(np.array([0.8]), np.array([[0.3], [0.6], [0.0]])), [0.5])


def test_as_many_documents_are_drawn_as_there_are_each_as_often_and_never_other_ones():
    times = drawn(5, 4000)
    assert times.shape == (4000, 5)
    assert (times.sum(1) == 5).all()
    np.testing.assert_allclose(times.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(times.var(0), 0.8, atol=0.06)  # multinomial, 5 x 1/5 x 4/5
    assert (drawn(5, 4000) == times).all()


def test_windows_are_whole_and_of_one_document():
    text = Text(d_vocab=64, characters=10_000, length=16, windows=8, per_document=2)
    rows = [list(range(15)), list(range(33)), list(range(70))]
    windows, document = windows_of(rows, text)
    assert document == [1, 1, 2, 2]
    assert windows[1] == list(range(16, 32))


def test_no_two_dictionaries_begin_alike():
    from common.saes.architectures.base import random_rows

    seeds = [recipe(SIZES, width, 100 * 7 + at).seed for at, width in enumerate(SIZES.widths)]
    rows = [random_rows(w, 4, torch.Generator().manual_seed(s)) for w, s in zip(SIZES.widths, seeds, strict=True)]
    assert not torch.allclose(rows[0], rows[1][:8])
    same = random_rows(16, 4, torch.Generator().manual_seed(seeds[0]))
    torch.testing.assert_close(rows[0], same[:8])  # what would happen with one seed


def test_spaces_and_line_breaks_are_visible():
    assert visible(" a\n") == "␣a↵"
    assert visible("\x00") == "·"


def planted_scores(rng):
    """Random scores of three units."""
    every = ("detection", "fuzzing", "ranking", "purity")
    draws = [*every, *(f"{score}_quarter{q}" for score in every[2:] for q in range(1, 5))]
    units = {score: rng.random(3) for score in (*every, "auroc")}
    return Scores(units, {one: rng.random(4) for one in every}, {one: rng.random(20) for one in draws})


def replaced(ce):
    """Metrics of the part `loss`, of one table of cross-entropies for each network."""
    found = [
        [{"name": name, "ce": nats, "fvu": 0.5, "dead": 0.0, "l0": 2.0} for name, nats in own.items()] for own in ce
    ]
    metrics = model_metrics(found, {"unigram": 3.0, "bigram": 2.0}, [5.0] * len(ce)) | replacement_metrics(found, SIZES)
    rng = np.random.default_rng(0)
    windows = [{name: nats + 0.02 * rng.normal(size=50) for name, nats in own.items()} for own in ce]
    return metrics | document_metrics(metrics, windows, np.arange(50) // 2, SIZES)


def test_differences_pair_networks_and_intervals_are_over_documents():
    rng = np.random.default_rng(0)
    found_units = {kind: [planted_scores(rng) for _ in range(2)] for kind in (*KINDS, "shuffled")}
    units = unit_metrics(found_units, 5)
    pair = list(zip(found_units["features"], found_units["neurons"], strict=True))
    literal = np.mean([a.quarters["purity"][3] - b.quarters["purity"][3] for a, b in pair])
    of_neurons = units["purity_quarter4_latents_documents"].control("rate_matched_neurons")
    assert of_neurons.difference.value == pytest.approx(literal)
    draws = [a.draws["ranking"] - b.draws["ranking"] for a, b in pair]
    known = units["ranking_latents_documents"]
    assert known.uncertainty.model_dump() == {"unit": "documents", "count": 5}
    difference = known.control("rate_matched_neurons").difference
    ends = np.quantile(np.mean(draws, 0), [0.025, 0.975])
    assert difference.ci_low == pytest.approx(min(ends[0], difference.value))
    assert difference.ci_high == pytest.approx(max(ends[1], difference.value))
    assert {control.name for control in units["detection_latents"].controls} == set(CONTROLS.values())
    assert units["detection_relu"].controls[0].name == "narrow_topk"


def test_loss_recovered_and_its_rise_are_the_literal_ones():
    ce = {"clean": 1.0, "trained-8": 2.0, "trained-16": 3.0, "start-8": 4.0, "start-16": 5.0, "twin1": 6.0,
          "components": 7.0, "relu": 8.0, "neurons": 9.0, "mean": 10.0, "zero": 11.0}  # fmt: skip
    found = replaced([ce, ce])
    widest = found["recovered_zero_widest"]
    assert widest.value == pytest.approx((11 - 3) / 10)
    assert widest.control("principal_components").value == pytest.approx((11 - 7) / 10)
    assert widest.control("random_rows").value == pytest.approx((11 - 5) / 10)
    assert found["rise_zero_widest"].value == pytest.approx(((2 + 6) / 2 - 3) / 10)
    assert found["rise_zero_widest"].control("luckiest_start").value == pytest.approx((6 - 2) / 2 / 10)
    assert found["rise_zero_widest"].control("random_rows").value == pytest.approx((4 - 5) / 10)
    assert found["recovered_zero_relu"].control("narrow_topk").difference.value == pytest.approx((2 - 8) / 10)
    assert found["gain_over_bigram"].control("untrained").value == pytest.approx(2 - 5)
    over = found["recovered_zero_widest_documents"]
    assert over.uncertainty.model_dump() == {"unit": "documents", "count": 25}
    assert over.ci_low < 0.8 < over.ci_high


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
    first, second = families_of(levels, x, TEXT, words, 1)
    for family, word in ((first, "-w3"), (second, "-w7")):
        assert [row["parent"] for row in family] == [-1, family[0]["latent"], family[0]["latent"]]
        assert {row["label"] for row in family} == {word}
        assert min(row["cosine"] for row in family) > 0.9
        assert min(row["told"] for row in family) > 0.9


def test_families_that_split_and_are_told_by_tokens_are_shown_first():
    def family(told, parents):
        return [{"width": 8 if p < 0 else 16, "parent": p, "told": told, "latent": i} for i, p in enumerate(parents)]

    found = {4: [family(0.9, [-1, 0]), family(0.2, [-1, 0, 0])], 6: [family(0.5, [-1, 0, 0])]}
    shown_rows = clearest_families(found)
    assert [(row["family"], row["seed"]) for row in shown_rows] == [(1, 6)] * 3 + [(2, 4)] * 3 + [(3, 4)] * 2
    assert [row["told"] for row in shown_rows[::3]] == [0.5, 0.2, 0.9]


def test_labels_show_where_words_begin():
    words = [" the", "ing", " (", "\n", " ", '"""']
    found = Explanations(np.zeros((1, 6), bool), np.array([True]), np.zeros((1, 6)), np.array([[0, 1, 2, 3]]))
    assert label(found, 0, words) == "after the  -ing  (  ↵"
    assert label(found._replace(ranked=np.array([[4, 5, -1]])), 0, words) == 'after ␣  """'


def loss_world(changes):
    """Three networks at about 1 nat, 3 without MLP."""
    ce = {"clean": 1.0, "trained-8": 1.4, "twin1": 1.42, "trained-16": 1.1, "start-8": 2.6, "start-16": 2.5,
          "components": 2.0, "relu": 1.5, "neurons": 2.2, "mean": 2.9, "zero": 3.0, **changes}  # fmt: skip
    return replaced([{name: nats + 0.001 * seed for name, nats in ce.items()} for seed in range(3)])


def unit_world(clear, tokens):
    """Units of the clear kinds fire on one token each, all others at random and alike."""
    found = {kind: [] for kind in (*KINDS, "shuffled")}
    for seed in range(3):
        rng, weights = np.random.default_rng(seed), resampled(TEXT, 20)
        at_random = rng.random((TEXT.size(), 3)) < 1 / VOCAB
        for kind, each in found.items():
            of = "features" if kind == "shuffled" else kind
            own, _ = firings(TEXT.token[:, None] == tokens if of in clear else at_random, seed)
            told = explain(own, TEXT, VOCAB, 2)
            each.append(judge(told if of == kind else told.of(exchanged(np.ones(3), rng)), own, TEXT, 4, weights))
    return unit_metrics(found, 10)


def logit_world(clear, tokens):
    """Each token is followed by the next; units fire on one each, and clear kinds have their weight on the next."""
    text = read_text((torch.arange(WINDOWS)[:, None] + torch.arange(LENGTH)) % VOCAB, torch.arange(WINDOWS) // 2)
    weights = {kind: np.eye(VOCAB)[tokens + (kind in clear)] for kind in ("features", "neurons", "rotated", "start")}
    weights["shuffled"] = weights["features"][exchanged(np.ones(3), np.random.default_rng(0))]
    fires, _ = firings(text.token[:, None] == tokens)
    rng = np.random.default_rng(0)
    return logit_metrics(
        {
            kind: [logit_correlations(own, fires, text).mean() + 0.001 * seed for seed in rng.random(3)]
            for kind, own in weights.items()
        }
    )


def splitting_world(nested, alike):
    """Wide latents fire inside near narrow ones, which may fire alike, or anywhere; a twin seldom fires with these."""
    draws, found = torch.Generator().manual_seed(0), []

    def level(rows, fires):
        rows = torch.nn.functional.normalize(rows + 0.03 * torch.randn(rows.shape, generator=draws), dim=1)
        return Level(Sae(About("topk"), "topk", rows.mT, torch.zeros(len(rows)), rows, torch.zeros(200), k=2), fires)

    for seed in range(3):
        rows, half = torch.randn(30, 200, generator=draws), torch.rand(3000, 60, generator=draws) < 0.5
        on, other = torch.rand(2, 3000, 30, generator=draws) < 0.1
        on = on[:, :1].expand(-1, 30) if alike else on
        levels = [level(rows, on), level(rows.repeat(2, 1), half & (on if nested else other).repeat(1, 2))]
        one, null = nest(levels, seed)
        twin, _ = nest([levels[0], level(rows, other | on & half[:, :30] & half[:, 30:])], seed)
        found.append(summary({"": one, "_permuted": null, "_twin": twin}, levels))
    return splitting_metrics(found)


def universality_world(clear):
    """Units of the clear kinds are the same in three networks, in another order; all others are random."""
    draws, kinds = np.random.default_rng(0), ("features", "neurons", "untrained")
    same, *other = (torch.from_numpy(draws.random((TEXT.size(), 20))) for _ in range(10))
    kept = [{kind: same.roll(seed, 1) if kind in clear else other.pop() for kind in kinds} for seed in range(3)]
    return universality_metrics(universal(kept, [0, 1, 2], TEXT)[0])


def test_the_scorer_stands_beside_exchanged_explanations():
    rows = [{"seed": i % 3, "model": 0.7 + i / 500, "exchanged": 0.5, "lexical": 0.9} for i in range(12)]
    found = scorer_metrics(rows, [0, 1, 2])
    assert found["auroc_model"].control("exchanged_explanations").difference.value == pytest.approx(0.211)
    assert found["auroc_lexical"].value == pytest.approx(0.9)


CLEAR, APART, ALIKE = ("features",), np.array([3, 7, 10]), np.array([3, 3, 3])  # tokens of three units
WORLDS = {  # for each part one in which its claims hold, one with nothing to find, one in which controls are as good
    "loss": (loss_world, ({},), ({"trained-16": 2.0},), ({"components": 1.1},)),
    "units": (unit_world, (CLEAR, APART), ((), APART), (KINDS, APART)),
    "logits": (logit_world, (CLEAR, APART), ((), APART), (KINDS, ALIKE)),
    "splitting": (splitting_world, (True, False), (False, False), (True, True)),
    "universality": (universality_world, (CLEAR,), ((),), (("features", "untrained"),)),
}


@pytest.mark.parametrize("claim", load_claims("monosemanticity"), ids=lambda claim: claim.id)
def test_each_claim_holds_in_a_planted_world_and_fails_in_others(claim):
    made, *worlds = WORLDS[claim.part]
    effects = [made(*world)[claim.metric] for world in worlds]
    assert {control.name for control in effects[0].controls} == set(claim.controls)
    verdicts = [judge_landmark(claim.assertion, claim.neutral, effect)[0] for effect in effects]
    assert verdicts == ["reproduced", "not reproduced", "not reproduced"]
