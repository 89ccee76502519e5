"""Natural absorption, matched layers and causal completeness on hand-built dictionaries."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.interp.partial_forward import rerun
from common.saes.sae import About, Sae
from replications.sparse_autoencoders import completeness
from replications.sparse_autoencoders.completeness import (
    KS,
    NULL,
    Pairs,
    attribution,
    behaviour,
    chosen,
    differing,
    ioi_pairs,
    keep,
    pair_mean,
    summary,
)
from replications.sparse_autoencoders.layers import layer_metrics, layer_rows, standard
from replications.sparse_autoencoders.natural_absorption import absorption_metrics
from replications.sparse_autoencoders.readouts import random_sae
from replications.sparse_autoencoders.token_classes import (
    Discriminants,
    Half,
    classes,
    coded,
    f1,
    frequent,
    main_latents,
    measured,
    prepared,
    random_class,
)

ENTRIES = 12  # vocabulary entries; 0 to 3 are the class
D = ENTRIES + 1  # one dimension per entry, and one for the class
MEMBERS = {0, 1, 2, 3}


def sae_with(rows):
    """Latents that read and write these rows where the projection is above 0.6, or 1.5 for rows of several parts."""
    rows = torch.tensor(rows)
    threshold = torch.where(rows.clamp(min=0).sum(1) > 1, 1.5, 0.6)
    return Sae(About("t"), "jumprelu", rows.T.contiguous(), torch.zeros(len(rows)), rows, torch.zeros(D),
               threshold=threshold)  # fmt: skip


def half(seed, n=6000):
    """Tokens with their own direction; members of the class share one more. Member 3 is rare."""
    dice = np.random.default_rng(seed)
    odds = np.array([9.0, 9, 9, 1, *[9] * (ENTRIES - 4)])
    token = torch.from_numpy(dice.choice(ENTRIES, n, p=odds / odds.sum()))
    x = torch.zeros(n, D)
    x[torch.arange(n), token] = 1
    x[:, -1] = (token < 4).float()
    return Half(x + 0.01 * torch.from_numpy(dice.normal(size=(n, D))).float(), token)


def unit(*places):
    row = np.zeros(D, dtype=np.float32)
    row[list(places)] = 1
    return row


def judged(rows, members=MEMBERS):
    fit, test = half(0), half(1)
    sae = sae_with(np.stack(rows))
    one = prepared(members, fit, test, Discriminants(fit), 10)
    return one and measured(one, coded(sae, fit, test), fit, test)


def test_a_latent_of_the_class_misses_nothing():
    found = judged([unit(D - 1), *(unit(at) for at in range(ENTRIES))])
    assert found.f1 > 0.99
    assert found.main == 1
    assert (found.recall, found.frequent, found.rare) == (1, 1, 1)
    assert found.absorbed == 0


def test_an_absorbed_member_is_seen_as_such():
    """The class's latent is silent on the rare member, whose own latent writes the class too."""
    hole = unit(D - 1)
    hole[3] = -1
    found = judged([hole, unit(3, D - 1), *(unit(at) for at in range(4, ENTRIES))])
    assert found.frequent == 1
    assert found.rare < found.frequent
    assert found.recall == pytest.approx(27 / 28, abs=0.02)
    assert found.absorbed == pytest.approx(1 / 28, abs=0.02)


def test_a_dictionary_without_the_class_absorbs_nothing():
    found = judged([unit(at) for at in range(4, ENTRIES)])
    assert found.absorbed == 0
    assert found.recall < 0.1
    assert judged([unit(D - 1)], {11}) is not None
    assert judged([unit(D - 1)], {99}) is None


def test_main_latents_join_while_they_help():
    inside = torch.tensor([True] * 6 + [False] * 6)
    on = torch.zeros(12, 4, dtype=torch.bool)
    on[:3, 0] = on[3:6, 1] = on[:2, 2] = True
    on[:, 3] = True
    assert sorted(main_latents(on, on.sum(0), inside)) == [0, 1]
    literal = [2 * int((on[:, i] & inside).sum()) / int(on[:, i].sum() + inside.sum()) for i in range(4)]
    assert f1(on.T, inside).tolist() == pytest.approx(literal)


def test_classes_and_their_random_twins():
    found = classes([" def", "def", " Apple", "ant", "7", " a", "x1"])
    assert found["keyword"] == {0, 1}
    assert found["letter a"] == {2, 3}
    assert found["digit"] == {4}
    count = torch.tensor([100, 1, 98, 5, 0, 6, 40, 2])
    twin = random_class([0, 3], count, np.random.default_rng(0))
    assert twin == {2, 5}
    tokens = torch.tensor([4] * 6 + [2] * 3 + [1] * 2)
    assert frequent(tokens).tolist() == [4]


def test_correlations_are_those_of_numpy():
    one, other = (torch.rand(200, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    literal = np.corrcoef(one.T.numpy(), other.T.numpy())[:3, 3:]
    assert np.allclose((standard(one).mT @ standard(other)).numpy(), literal, atol=1e-5)
    assert torch.allclose((standard(one).mT @ standard(one)).diagonal(), torch.ones(3), atol=1e-5)
    other[:, 1] = 0
    assert (standard(one).mT @ standard(other))[:, 1].abs().max() == 0


def test_metrics_of_both_parts():
    rows = [
        {"seed": seed, "dictionary": dictionary, "classes": group, "class": name, "tokens": 9, "f1": good, "main": 1,
         "recall": 0.5, "frequent": 0.75, "rare": 0.25, "absorbed": 0.1 if group == "natural" else 0.0}
        for seed in (0, 1) for dictionary in ("trained", "untrained") for group in ("natural", "random")
        for name, good in (("a", 0.9), ("b", 0.1))
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    found = absorption_metrics(frame)
    assert found["gap"].value == 0.5
    assert found["classes"].value == 1
    assert found["absorbed"].control("random_classes").difference.value == pytest.approx(0.1)
    others = {"shuffled": 0.1, "random": 0.4, "other_seed": 0.8, "same_start": 0.9}
    table = pd.DataFrame({"seed": [0, 0, 1, 1], "later": [0.9, 0.5, 0.9, 0.5], **others})
    layers = layer_metrics(table)
    assert layers["matched"].value == 0.5
    assert layers["match"].control("random_directions").difference.value == pytest.approx(0.3)
    assert layers["match_same_start"].value == pytest.approx(0.9)


def test_layers_are_matched_with_the_dictionary_of_another_seed():
    """Seed 0 shares its latents with the later layer of seed 1 only, seed 1 with that of seed 0: both are found."""
    x = torch.randn(2000, 60, generator=torch.Generator().manual_seed(0))

    def sae(seed):
        W = torch.nn.functional.normalize(torch.randn(120, 60, generator=torch.Generator().manual_seed(seed)), dim=1)
        return Sae(About("t"), "relu", W.T.contiguous(), torch.full((120,), -1.0), W, torch.zeros(60))

    found = layer_rows(x, x, [sae(1), sae(2)], [sae(2), sae(1)], [0, 1])
    assert found["later"].min() > 0.999
    assert found[["shuffled", "random", "other_seed", "same_start"]].max().max() < 0.99
    assert found["shuffled"].mean() < 0.2
    crossed = layer_rows(x, x, [sae(1), sae(2)], [sae(1), sae(2)], [0, 1])
    assert crossed["same_start"].min() > 0.999
    assert crossed["later"].max() < 0.99
    shared, apart = (
        [control.difference.value for control in layer_metrics(rows)["match"].controls] for rows in (found, crossed)
    )
    assert min(shared) > 0.5 > 0.2 > max(apart)


@pytest.fixture
def pairs():
    rows = torch.nn.functional.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    sae = Sae(About("t"), "relu", rows.T.contiguous(), torch.zeros(20), rows, torch.zeros(6))
    return sae, torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1))


def test_keeping_everything_changes_nothing_and_keeping_nothing_makes_pairs_equal(pairs):
    sae, x = pairs
    everything = list(range(20))
    assert torch.allclose(keep(sae, x, everything, True), x, atol=1e-5)
    nothing = keep(sae, x, [], False)
    assert torch.allclose(nothing, pair_mean(x), atol=1e-5)
    assert float(behaviour(nothing.sum((1, 2))[None]).abs()) < 1e-4
    assert torch.allclose(keep(sae, x, everything, False) + keep(sae, x, [], True), x + pair_mean(x), atol=1e-5)


def test_attribution_is_exact_for_a_linear_behaviour(pairs):
    """Without attention behind it, M is linear: attributions are the changes that single latents make."""
    sae, x = pairs
    gradient = torch.randn(6, generator=torch.Generator().manual_seed(3)).expand(8, 2, 6)

    def m(values):
        return behaviour((values * gradient).sum((1, 2))[None])[0]

    scores = attribution(sae, x, gradient)
    for latent in (0, 7):
        assert float(m(keep(sae, x, [latent], False))) == pytest.approx(float(scores[latent]), abs=1e-4)


def test_sets_and_summary():
    sets = chosen(torch.arange(200), torch.linspace(0.01, 0.2, 200), np.random.default_rng(0))
    assert {k for name, k, _, _ in sets if name == "best"} == set(KS)
    for name, k, latents, _ in sets:
        assert len(set(latents)) == k
        if name == "random":
            assert not set(latents) & set(range(k))
    left = {("syntax", "random"): 0.1, ("ioi", "random"): 0.3}
    table = [
        {"task": task, "seed": seed, "latents": name, "k": k, "error": error, "survives": left.get((task, name), 0.7)}
        for task in ("syntax", "ioi") for seed in (0, 1)
        for name, k, _, error in [*sets, *((NULL, k, [], False) for k in KS)]
    ]  # fmt: skip
    found = summary(pd.DataFrame(table), {"syntax": 3.0, "ioi": 9.0})
    assert found["survives_k16"].control("random_latents").difference.value == pytest.approx(0.6)
    assert found["ioi_survives_k16"].control("random_latents").difference.value == pytest.approx(0.4)
    assert found["survives_k16"].control("random_dictionary").difference.value == pytest.approx(0)
    assert (found["behaviour"].value, found["ioi_behaviour"].value) == (3, 9)
    frame = pd.DataFrame(table)
    frame.loc[(frame["task"] == "ioi") & (frame["latents"] == "none"), "survives"] = 0.9
    found = summary(frame, {"syntax": 3.0, "ioi": 9.0})
    assert found["ioi_survives_error_alone"].control("syntax").difference.value == pytest.approx(0.9 - 0.7)


def test_ioi_pairs_part_at_the_repeated_name_and_come_from_one_half():
    def prompt(template, order, half, tokens, s2):
        original = {"tokens": [*tokens, 0, 0]}
        return {"template": template, "order": order, "half": half, "io_id": 7, "s_id": 8,
                "positions": {"s2": s2, "end": len(tokens) - 1}, "versions": {"original": original}}  # fmt: skip

    listed = [
        prompt(0, "ABBA", 0, [1, 7, 8, 2, 8, 3], 4),
        prompt(0, "ABBA", 0, [5, 5], 0),  # a further draw of the same template and order
        prompt(0, "BABA", 0, [1, 8, 7, 2, 2, 8, 3, 4], 5),
        prompt(1, "ABBA", 1, [6, 6], 0),
    ]
    found = ioi_pairs(listed, 0)
    assert found.tokens[:2] == [[1, 7, 8, 2, 8, 3], [1, 7, 8, 2, 7, 3]]
    assert found.tokens[2:] == [[1, 8, 7, 2, 2, 8, 3, 4], [1, 8, 7, 2, 2, 7, 3, 4]]
    assert found.answers == [(7, 8)] * 4
    assert differing(found.tokens[:2]) == 2
    assert differing(found.tokens) == 3


@pytest.mark.parametrize("layer", [0, 1])
def test_only_the_last_positions_are_needed(decoder, layer):
    """Running on with the streams of the other prompt of each pair gives that prompt's answer."""
    pairs = Pairs(
        [[3, 5, 9, 4], [3, 5, 2, 4], [1, 2, 6, 8, 7, 4], [1, 2, 6, 9, 7, 4]], [(9, 2), (9, 2), (8, 9), (8, 9)]
    )
    found = completeness.prepared(decoder, pairs, layer, "cpu")
    assert found.at.tolist() == [[1, 2, 3], [1, 2, 3], [3, 4, 5], [3, 4, 5]]
    swapped = found.x[[1, 0, 3, 2]]
    final = rerun(decoder, found.cache, layer, found.at, found.at[:, -1], swapped[None])[0]
    ends = torch.tensor([3, 3, 5, 5])
    expected = found.cache.final[torch.arange(4), ends][[1, 0, 3, 2]]
    assert torch.allclose(final, expected, atol=1e-4)
    assert not torch.allclose(final, expected[[1, 0, 3, 2]], atol=1e-2)
    W_U = decoder.bridge.W_U
    assert torch.equal(found.answer[2], W_U[:, 8] - W_U[:, 9])


def completeness_of(**of_error):
    """Each behaviour is a sum of four coordinates: of latents, which are positive, or of the negative error."""
    eye, rows = torch.eye(200), []
    sae = Sae(About("t"), "relu", eye, torch.zeros(200), eye, torch.zeros(200))
    for task, error, seed in [(*one, seed) for one in of_error.items() for seed in range(3)]:
        gradient = (torch.arange(200) // 4 == 24 + error).float().expand(8, 2, 200)
        x = torch.rand(8, 2, 200, generator=torch.Generator().manual_seed(seed)) * (1 - 2 * (torch.arange(200) > 99))
        x[error::2] *= 1 + 8 * gradient[0]
        best, dice = attribution(sae, x, gradient).argsort(descending=True), np.random.default_rng(seed)
        null = random_sae(sae, x.flatten(0, 1), seed)
        order = attribution(null, x, gradient).argsort(descending=True).tolist()
        kept = [(sae, *one) for one in chosen(best, torch.ones(200), dice)]
        kept += [(null, NULL, k, order[:k], False) for k in KS]
        for own, name, k, latents, whole in kept:
            both = torch.stack([keep(own, x, latents, whole), x])
            left, clean = behaviour((both * gradient).sum((2, 3))).tolist()
            rows.append({"task": task, "seed": seed, "latents": name, "k": k, "error": whole, "survives": left / clean})
    return summary(pd.DataFrame(rows), dict.fromkeys(of_error, clean))


def test_what_carries_a_behaviour_is_found_in_the_latents_or_in_the_error():
    found = completeness_of(syntax=False, ioi=True)
    assert found["survives_k4"].value > 0.9
    assert found["survives_k4"].control("random_latents").value < 0.2
    assert found["survives_error_alone"].value < 0.1
    assert found["ioi_survives_error_alone"].value > 0.9
    assert found["ioi_survives_error_alone"].control("syntax").difference.ci_low > 0.5
