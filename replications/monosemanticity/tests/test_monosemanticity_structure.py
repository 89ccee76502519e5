"""Splitting, universality and comparisons on planted cases, and claims that can fail."""

import numpy as np
import pytest
import torch

from common.core.claims import load_claims
from common.core.metrics import Metric
from common.core.verdicts import judge_landmark
from replications.monosemanticity.dictionaries import FIRST_TWIN, TWINS, harvest_windows, recipe
from replications.monosemanticity.explain import pair_table
from replications.monosemanticity.measure import mean_activations, universality
from replications.monosemanticity.metrics import compared, model_metrics
from replications.monosemanticity.model import Models, read
from replications.monosemanticity.replacement import losses_by_way, recovered
from replications.monosemanticity.structure import (
    best_correlations,
    beyond_token,
    distinct_share,
    family,
    split_share,
)
from replications.monosemanticity.units import LATENTS, Encoded
from tests.fixtures.monosemanticity_tiny import (
    DICTIONARIES,
    READING,
    SHAPE,
    TEXT,
    TOKENS,
    WEIGHTS,
    tiny_dictionary,
)


def test_children_of_a_planted_family_are_found_and_permuted_ones_are_not():
    generator, parents = torch.Generator().manual_seed(0), 40
    narrow = torch.nn.functional.normalize(torch.randn(parents, 200, generator=generator), dim=1)
    wide = narrow.repeat_interleave(2, 0) + 0.03 * torch.randn(2 * parents, 200, generator=generator)
    on_narrow = torch.rand(3000, parents, generator=generator) < 0.1
    halves = torch.rand(3000, parents, 1, generator=generator) < 0.5
    on_wide = (on_narrow[:, :, None] & torch.cat([halves, ~halves], 2)).flatten(1)
    found = family(wide, on_wide, narrow, on_narrow)
    every, all_parents = torch.ones(2 * parents, dtype=torch.bool), torch.ones(parents, dtype=torch.bool)
    assert found.parent.tolist() == [i // 2 for i in range(2 * parents)]
    assert found.inside.min() == 1
    assert split_share(found, every, all_parents) == 1
    assert distinct_share(found, every, all_parents, on_wide) == 1
    assert split_share(found, every & (torch.arange(2 * parents) > 0), all_parents) == pytest.approx(39 / 40)
    null = family(wide[:, torch.randperm(200, generator=generator)], on_wide, narrow, on_narrow)
    assert split_share(null, every, all_parents) < 0.1
    twin = family(narrow, on_narrow, narrow, on_narrow)
    assert split_share(twin, all_parents, all_parents) == 0  # one child each


def test_copies_of_a_latent_pass_as_children_but_not_as_distinct_ones():
    """What pooled twins are: as many candidates as a wide dictionary has, and no latent split."""
    generator, count = torch.Generator().manual_seed(0), 10
    rows = torch.nn.functional.normalize(torch.randn(count, 50, generator=generator), dim=1)
    fires = torch.rand(2000, count, generator=generator) < 0.1
    missed = torch.rand(2000, 2 * count, generator=generator) < 0.1
    copies = fires.repeat(1, 2) & ~missed
    found = family(rows.repeat(2, 1), copies, rows, fires)
    every, parents = torch.ones(2 * count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    assert split_share(found, every, parents) == 1
    assert distinct_share(found, every, parents, copies) == 0
    copies[1000:, 0], copies[:1000, count] = False, False  # the copies of the first latent share its text
    found = family(rows.repeat(2, 1), copies, rows, fires)
    assert distinct_share(found, every, parents, copies) == pytest.approx(1 / count)
    assert distinct_share(found, every & (torch.arange(2 * count) > 0), parents, copies) == 0
    assert distinct_share(found, every, parents & (torch.arange(count) > 0), copies) == 0


def test_a_unit_finds_its_twin_in_a_permuted_copy():
    x = torch.rand(500, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(best_correlations(x, 3 * x[:, [4, 2, 0, 1, 3]] + 1), 1, atol=1e-5)
    y = torch.rand(500, 4, generator=torch.Generator().manual_seed(1))
    literal = np.corrcoef(x.numpy().T, y.numpy().T)[:5, 5:].max(1)
    np.testing.assert_allclose(best_correlations(x, y), literal, atol=1e-5)


def test_units_of_one_token_are_universal_and_nothing_of_that_is_beyond_the_token():
    judged = TEXT.token[TEXT.scored]
    own = torch.nn.functional.one_hot(judged, 12).float()
    assert best_correlations(own, own.flip(1)).min() > 0.999
    assert beyond_token(own, TEXT).abs().max() < 1e-6
    rows = universality([{LATENTS: own}, {LATENTS: own.flip(1)}], [3, 4], TEXT)
    for row in rows:
        assert row["within"] < 0.01
        assert (row["all"] > 0.999) == (row["kind"] == LATENTS)


def test_a_perfect_dictionary_recovers_all_and_the_ablation_nothing():
    eye = tiny_dictionary()
    perfect = Encoded(
        eye.__class__(eye.about, "relu", torch.eye(32), torch.zeros(32), torch.eye(32), torch.zeros(32)), READING.x
    )
    other = Encoded(eye, eye.encode(READING.x))
    made = ~TEXT.scored
    table = pair_table(READING.x[made], TEXT.previous[made], TEXT.token[made], TEXT.d_vocab)
    rows = losses_by_way(READING, {"trained-32": perfect, "start-10": other}, 3, TEXT, table)
    by_name = {row["name"]: row for row in rows}
    assert by_name["trained-32"]["ce"] == pytest.approx(by_name["clean"]["ce"], abs=1e-6)
    assert recovered(rows, "zero") == 0
    ladder = [{"name": name, "ce": ce} for name, ce in (("clean", 3.0), ("half", 3.5), ("zero", 4.0))]
    assert [recovered(ladder, name) for name in ("clean", "half", "zero")] == [1, 0.5, 0]
    assert by_name["trained-32"]["fvu"] == pytest.approx(0, abs=1e-6)
    assert by_name["start-10"]["l0"] <= 3
    assert by_name["mean"]["fvu"] == pytest.approx(1, abs=0.05)
    assert by_name["token"]["fvu"] < by_name["mean"]["fvu"]
    assert by_name["components"]["fvu"] < by_name["mean"]["fvu"]


def test_means_of_pairs_recover_what_pairs_decide_and_means_of_tokens_do_not():
    values = torch.randn(TEXT.d_vocab**2, 32, generator=torch.Generator().manual_seed(0)).relu()
    reading = READING._replace(x=values[TEXT.previous * TEXT.d_vocab + TEXT.token])
    every = torch.arange(TEXT.d_vocab**2).repeat(100)  # each pair a hundred times
    table = pair_table(values[every], every // TEXT.d_vocab, every % TEXT.d_vocab, TEXT.d_vocab)
    rows = losses_by_way(reading, {}, 3, TEXT, table)
    fvu = {row["name"]: row["fvu"] for row in rows}
    assert fvu["pair"] < 0.01
    assert fvu["token"] > 0.5


def test_mean_activations_are_those_of_the_harvest():
    models = Models(SHAPE, [3], WEIGHTS)
    stream = TOKENS.flatten()
    table = mean_activations(models, 0, stream, 200)
    windows = harvest_windows(models, 0, stream, 200)
    x = read(WEIGHTS, windows, SHAPE).x[:200]
    rows = [(int(windows[i // 16, i % 16]), int(windows[i // 16, i % 16 + 1])) for i in range(200)]
    at = max(set(rows), key=rows.count)
    own = torch.stack([one for one, row in zip(x, rows, strict=True) if row == at])
    same = torch.stack([one for one, row in zip(x, rows, strict=True) if row[1] == at[1]])
    token = (same.sum(0) + 2 * x.mean(0)) / (len(same) + 2)
    found = table.at(torch.tensor(at[:1]), torch.tensor(at[1:]))[0]
    torch.testing.assert_close(found, (own.sum(0) + 2 * token) / (len(own) + 2), atol=1e-5, rtol=0)


def test_no_two_dictionaries_of_all_networks_share_a_start():
    places = [*range(4), *range(FIRST_TWIN, FIRST_TWIN + len(TWINS) - 1)]
    seeds = {recipe(DICTIONARIES, 8, 100 * seed + at).seed for seed in (110, 111) for at in places}
    assert len(seeds) == 14
    assert recipe(DICTIONARIES, 8, 0, relu=True).architecture == "relu_bricken"


def test_gains_over_counts_are_those_of_the_models_and_their_intervals_of_documents():
    losses = {"model": [np.full(8, 3.0), np.full(8, 3.2)], "untrained": [np.full(8, 6.0)] * 2}
    counted = {"bigrams": np.linspace(3.3, 3.9, 8)}
    found = model_metrics(losses, counted, np.arange(8) // 2)["gain_over_bigrams"]
    assert found.value == pytest.approx(0.5)
    assert found.per_seed == pytest.approx([0.6, 0.4])
    assert found.uncertainty.unit == "documents"
    assert found.uncertainty.count == 4
    assert found.control("untrained").value == pytest.approx(-2.4)


def table(**kinds):
    return [
        {"seed": seed, "kind": kind, "all": value + 0.001 * seed * (1 + len(kind))}
        for kind, value in kinds.items()
        for seed in range(5)
    ]


@pytest.mark.parametrize(
    ("untrained", "verdict"), [(0.5, "reproduced"), (0.97, "not reproduced"), (0.93, "not reproduced")]
)
def test_the_untrained_network_decides_over_interpretability(untrained, verdict):
    [claim] = [one for one in load_claims("monosemanticity") if one.id == "clearer_than_untrained"]
    others = dict.fromkeys(claim.controls, 0.6) | {"untrained_network": untrained}
    metric = compared(table(**{LATENTS: 0.95}, **others), "all", "", "mean")
    assert isinstance(metric, Metric)
    assert judge_landmark(claim.assertion, claim.neutral, metric)[0] == verdict


def test_every_landmark_rests_on_models_that_beat_bigrams():
    landmarks = [one for one in load_claims("monosemanticity") if one.tier == "landmark"]
    assert len(landmarks) <= 6
    assert {one.precondition for one in landmarks} == {"model_beats_bigrams"}
