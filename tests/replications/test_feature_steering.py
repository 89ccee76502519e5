"""The replication: concepts, dials and judges on planted data, choice of multipliers, measures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from common.config import load_replication
from common.corpora import Document
from common.errors import UserError
from common.files import write_json
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.feature_steering import concepts, dials, judge, measure, writing
from replications.feature_steering.choice import choose_multipliers, collapse, compared, fluency
from replications.feature_steering.draw import heat_map
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.settings import (
    CHOOSING,
    CURVES,
    DIALS,
    NO_DIAL,
    OF_A_SEED,
    REMOVALS,
    REMOVING,
    SCORING,
    Fluency,
)

LIMITS = Fluency(perplexity=[0.5, 1.2], collapse=4.0, distinct=0.8)
D, CONCEPTS, EACH = 12, 4, 10


def planted(shift=3.0, seed=0):
    """Documents whose tokens are shifted along one axis per concept, in anisotropic noise."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(CONCEPTS).repeat_interleave(EACH)
    scale = torch.linspace(0.3, 2.0, D).flip(0)
    x = torch.randn(len(label), 6, D, generator=generator) * scale + 1
    x[torch.arange(len(label)), :, D - 1 - label] += shift
    return x, label


def test_learned_dials_find_a_planted_direction_and_nulls_do_not():
    x, label = planted()
    axes = torch.eye(D).flip(0)[:CONCEPTS]
    for make in (dials.difference_of_means, dials.probe_directions):
        found = make(x, label)
        assert torch.allclose(found.norm(dim=1), torch.ones(CONCEPTS), atol=1e-5)
        assert torch.equal((found @ axes.T).argmax(1), torch.arange(CONCEPTS)), make.__name__
        assert ((found * axes).sum(1) > 0.5).all(), make.__name__
    sae = Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D))
    latent, area = dials.detectors(x.relu().mean(1), label, torch.ones(D))
    assert latent.tolist() == [11, 10, 9, 8]
    assert area.min() > 0.95
    live = torch.ones(D)
    live[11] = 0
    assert dials.detectors(x.relu().mean(1), label, live)[0][0] != 11
    made, drawn = dials.nulls(x, label, sae, torch.ones(D), latent, 0)
    assert not set(drawn.tolist()) & set(latent.tolist())
    assert all(
        torch.equal(v, dials.nulls(x, label, sae, torch.ones(D), latent, 0)[0][name]) for name, v in made.items()
    )
    assert not torch.equal(
        made["random_direction"], dials.nulls(x, label, sae, torch.ones(D), latent, 1)[0]["random_direction"]
    )
    towards = (dials.difference_of_means(x, label) * axes).sum(1)
    permuted = [
        (dials.nulls(x, label, sae, torch.ones(D), latent, seed)[0]["permuted_means"] * axes).sum(1)
        for seed in range(20)
    ]
    assert abs(float(torch.stack(permuted).mean())) < 0.1 < 0.5 < float(towards.min())


def test_random_directions_have_the_covariance_of_the_tokens():
    x, _ = planted(0.0)
    v = dials.matched_directions(x, 4000, torch.Generator().manual_seed(0))
    spread = x.flatten(0, 1).var(0)
    assert np.corrcoef(v.square().mean(0), spread / spread.sum())[0, 1] > 0.98


def test_the_principal_direction_points_to_the_concept():
    x, label = planted()
    x[label == 0] += torch.randn(EACH, 6, 1, generator=torch.Generator().manual_seed(1)) * 6 * torch.eye(D)[3]
    found = dials.principal_directions(x, label)
    assert abs(found[0, 3]) > 0.9
    assert ((found * dials.difference_of_means(x, label)).sum(1) >= 0).all()


def test_the_probe_is_0_on_other_and_1_on_own_documents_it_has_not_seen():
    x, label = planted()
    fresh, _ = planted(seed=5)
    weights, offset = judge.fit_probe(x.mean(1), label)
    literal = torch.linalg.lstsq(
        torch.cat([x.mean(1).double(), torch.ones(len(x), 1)], 1), (label[:, None] == torch.arange(CONCEPTS)).double()
    ).solution
    unridged, constant = judge.fit_probe(x.mean(1), label, 1e-9)
    assert torch.allclose(unridged, literal[:-1], atol=1e-4)
    assert torch.allclose(constant, literal[-1], atol=1e-4)
    weights, offset = judge.rescaled(weights, offset, fresh.mean(1), label)
    scores = fresh.mean(1).double() @ weights + offset
    for one in range(CONCEPTS):
        assert scores[label == one, one].mean() == pytest.approx(1)
        assert scores[label != one, one].mean() == pytest.approx(0, abs=1e-9)
    assert min(dials.own_auroc(scores, label)) > 0.95


def test_lexicons_hold_telling_tokens_and_leave_out_what_a_dial_raises_directly():
    documents = [[[1, 2, 9], [1, 2, 9], [1, 3, 9], [1, 2, 5]], [[4, 9], [4, 9], [4, 1], [4, 9, 0]]]
    assert judge.lexicons(documents, [set(), set()], 2, [0]) == [[1, 2], [4, 9]]
    assert judge.lexicons(documents, [{2}, {9}], 2, [0]) == [[1, 9], [4]]
    tokens = torch.tensor([[1, 1, 2, 7], [7, 7, 7, 7]])
    assert judge.lexicon_share(tokens, [1, 2]).tolist() == [0.75, 0.0]
    assert judge.distinct_bigrams(tokens).tolist() == pytest.approx([1.0, 1 / 3])


def rows_of(gain, nats, distinct=1.0, concepts=3):
    """A table of compared texts: two prompts, one for choosing and one for scoring, dose-dependent gain and nats."""
    lines, scores = [], []
    for seed in (0, 1):
        for prompt, part in ((0, CHOOSING), (1, SCORING)):
            for copy in (-1.0, 1.0):
                lines.append((seed, part, -1, NO_DIAL, 0.0, prompt, 3.0 + 0.1 * copy, 1.0))
                scores.append(np.full(concepts, 0.5 * copy + prompt))
            for concept in range(concepts):
                for dial in DIALS:
                    for multiplier in (0.1, 0.2, 0.4):
                        value = gain(dial, multiplier)
                        own = np.full(concepts, float(prompt))
                        own[concept] += value
                        lines.append(
                            (seed, part, concept, dial, multiplier, prompt, 3.0 + nats(dial, multiplier), distinct)
                        )
                        scores.append(own)
    columns = ["seed", "part", "concept", "dial", "multiplier", "neutral", "nats", "distinct"]
    frame, array = pd.DataFrame(lines, columns=columns), np.array(scores)
    return frame, {"probe": array, "lexicon": array}


def test_gains_are_counted_from_the_mean_unsteered_text_of_the_prompt():
    own = compared(*rows_of(lambda dial, m: m * (dial == "sae"), lambda dial, m: m))
    sae = own[own["dial"] == "sae"]
    assert np.allclose(sae["gain"], sae["multiplier"])
    assert np.allclose(own["nats_added"], own["multiplier"])
    assert (sae["specific"] == 1).all()
    assert (own[own["dial"] != "sae"]["specific"] == 0.5).all()
    assert fluency(sae[sae["multiplier"] == 0.2]) == pytest.approx((np.exp(0.2), 1.0))


def test_the_chosen_multiplier_is_the_fluent_one_of_highest_gain():
    own = compared(*rows_of(lambda dial, m: m * (dial != "pca"), lambda dial, m: {0.1: 0.0, 0.2: 0.1, 0.4: 2.0}[m]))
    chosen = choose_multipliers(own, LIMITS)
    assert chosen["sae"] == 0.2  # 0.4 gains more and is not fluent
    assert chosen["pca"] == 0.0  # gains nothing
    repeating = compared(*rows_of(lambda dial, m: m, lambda dial, m: -1.0))
    assert set(choose_multipliers(repeating, LIMITS).values()) == {0.0}  # too predictable
    dull = compared(*rows_of(lambda dial, m: m, lambda dial, m: 0.0, distinct=0.5))
    assert set(choose_multipliers(dull, LIMITS).values()) == {0.0}
    assert collapse(own, "sae", LIMITS) == 0.4
    assert collapse(dull, "sae", LIMITS) == 0.1


def test_choosing_never_sees_the_scoring_prompts():
    frame, scores = rows_of(lambda dial, m: m, lambda dial, m: 0.0)
    scoring = (frame["part"] == SCORING) & (frame["dial"] != NO_DIAL)
    before = choose_multipliers(compared(frame, scores), LIMITS)
    frame.loc[scoring, "nats"] = 99.0
    scores["probe"][scoring] = -99.0
    assert choose_multipliers(compared(frame, scores), LIMITS) == before
    for seed in range(3):
        halves = [set(concepts.draw_prompts(4, seed, half, 3)) for half in (0, 1)]
        assert not halves[0] & halves[1]


def test_dose_response_of_a_planted_dial():
    own = compared(*rows_of(lambda dial, m: 2 * m if dial == "sae" else 0.0, lambda dial, m: 0.1))
    found = measure.doses_of(own, 3, [0, 1], LIMITS)
    assert found["sae_slope"].value == pytest.approx(2)
    assert found["sae_tau"].value == 1
    assert found["random_latent_slope"].value == found["random_direction_tau"].value == 0
    assert measure.concordance(np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])).tolist() == pytest.approx(
        [1, -1, 1 / 3]
    )


def test_margins_are_paired_by_concept_and_seed():
    dials = {dial for pair in measure.MARGINS for dial in pair}
    tables = {(dial, "gain"): np.arange(6.0).reshape(3, 2) * 100 + place for place, dial in enumerate(sorted(dials))}
    found = measure.margins(tables)
    for one, other in measure.MARGINS:
        apart = sorted(dials).index(one) - sorted(dials).index(other)
        metric = found[f"{one}_gain_minus_{other}"]
        assert (metric.value, metric.ci_low, metric.ci_high) == (apart, apart, apart)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu"])
def test_rows_pair_with_unsteered_ones_and_every_group_has_its_intervention(scale):
    plan = load_replication("feature_steering", scale).writing
    chosen = dict.fromkeys(DIALS, plan.multipliers[0])
    rows = [*writing.unsteered(3, plan), *writing.choosing(5, 3, plan), *writing.scoring(5, 3, plan, chosen)]
    rows += list(writing.removal(5, 6, 3, [2, 3, 4], 1000, plan.removal))
    base = {(row.part, row.neutral) for row in rows if row.dial == NO_DIAL}
    assert {(row.part, row.neutral) for row in rows} == base
    assert {row.dial for row in rows if row.part == CHOOSING} == {NO_DIAL, *CURVES}
    sae = Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), 2 * torch.eye(D), torch.zeros(D))
    prepared = {"norm": torch.tensor([10.0]), "latent.sae.3": torch.arange(5)}
    prepared |= {f"dial.{dial}.3" if dial in OF_A_SEED else f"dial.{dial}": torch.eye(D)[:5] for dial in DIALS}
    prepared["latent.random_latent.3"] = torch.arange(5) + 5
    groups = writing.steering(rows, prepared, sae)
    assert sorted(place for places, _ in groups for place in places) == list(range(len(rows)))
    x = torch.zeros(1, 1, D)
    for places, steering in groups:
        for number, place in enumerate(places[:40]):
            row = rows[place]
            assert (steering is None) == (row.dial in (NO_DIAL, "instruction"))
            if steering is not None and row.dial != "project":
                change = steering.rows(torch.tensor([number]))(x) - x
                assert change.norm() == pytest.approx(abs(row.multiplier) * 10, rel=1e-5)  # equal length
    assert {row.dial for row in rows} >= set(REMOVALS)


def test_every_seed_steers_with_the_latents_of_its_own_dictionary():
    saes = {
        seed: Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), torch.eye(D).roll(2 * seed, 0), torch.zeros(D))
        for seed in (3, 4)
    }
    prepared = {"norm": torch.tensor([10.0])}
    for seed, sae in saes.items():
        prepared[f"latent.sae.{seed}"] = torch.tensor([seed])
        prepared[f"dial.sae.{seed}"] = sae.W_dec[[seed]]
    for seed, sae in saes.items():
        arms = ((SCORING, "sae"), (REMOVING, "clamp"))
        rows = [writing.Row(seed, part, 0, dial, 0.2, 0, 0, 0) for part, dial in arms]
        for _, steering in writing.steering(rows, prepared, sae):
            assert torch.equal(steering(torch.zeros(1, 1, D))[0, 0], 2 * sae.W_dec[seed])
    assert not torch.equal(saes[3].W_dec[3], saes[4].W_dec[4])


def test_dictionaries_of_the_seeds_must_be_there_and_sit_at_one_hook(tmp_path):
    for name, hook in (("a-s0", "blocks.1.hook_resid_pre"), ("a-s1", "blocks.2.hook_resid_pre")):
        about = About("relu", model="m", hook=hook)
        save_saelens(Sae(about, "relu", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D)), tmp_path / name)
    write_json(tmp_path / "index.json", [{"name": "a-s0"}, {"name": "a-s1"}])
    assert [sae.about.hook for sae in own_saes(tmp_path / "index.json", ["a-s0"], "m")] == ["blocks.1.hook_resid_pre"]
    with pytest.raises(UserError, match=r"no SAE 'a-s2' in .*; there are a-s0, a-s1"):
        own_saes(tmp_path / "index.json", ["a-s0", "a-s2"], "m")
    with pytest.raises(UserError, match=r"belongs to blocks\.2\.hook_resid_pre of m, not to blocks\.1"):
        own_saes(tmp_path / "index.json", ["a-s0", "a-s1"], "m")


def test_numbers_of_the_judge_count_each_concept_once():
    rows = pd.DataFrame({"seed": [0, 0, 1, 1], "concept": ["a", "b"] * 2, "detection": [0.9, 0.7, 0.7, 0.9]})
    found = measure.judging(rows.assign(judge=[1.0, 0.8] * 2, judge_permuted=0.5))
    assert (found["judge_auroc"].value, found["judge_auroc"].n) == (pytest.approx(0.9), 2)
    assert found["detection_auroc"].ci_low == found["detection_auroc"].ci_high == pytest.approx(0.8)
    assert found["judge_auroc_difference"].value == pytest.approx(0.4)


def test_modules_are_read_from_the_place_of_a_docstring():
    def at(path):
        return concepts.module_of(Document(id=path, group="g", kind="docstring", text="x"))

    assert at("sympy/geometry/line.py#Line:12") == "sympy.geometry"
    assert at("click/core.py#module:1") == "click.core"


def test_the_map_of_specificity_shows_the_diagonal_of_scores_that_rise_under_any_latent():
    names = ["a", "b", "c"]
    gains = pd.DataFrame(np.eye(3) + np.array([0.0, 50.0, -8.0]), columns=names)  # by column: what any latent adds
    gains["c"] *= 0.01
    figure, shown = heat_map(gains.assign(steered=names)[["steered", *names]])
    plt.close(figure)
    assert np.allclose(shown[names], np.where(np.eye(3), np.sqrt(2), -np.sqrt(0.5)))
    constant = gains.assign(steered=names, a=1.0)[["steered", *names]]
    assert (heat_map(constant)[1]["a"] == 0).all()
    plt.close("all")
