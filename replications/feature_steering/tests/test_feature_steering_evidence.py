"""What is made of the rows: fluency and the choice of a length, comparisons, wins, dose-response, collapse."""

import numpy as np
import pandas as pd
import pytest

from replications.feature_steering import concepts, evidence, measure
from replications.feature_steering.fluency import choose_lengths, collapse, compared, fluency, read_alike
from replications.feature_steering.settings import CHOOSING, METHODS, NULLS, RANDOM, SCORING, UNSTEERED, Fluency

LIMITS = Fluency(lengths=[0.1], beyond=[0.4], prompts=1, perplexity=[0.5, 1.2], collapse=4.0, distinct=0.8)


def rows_of(gain, nats, distinct=1.0, concepts=3):
    """A table of compared texts: two prompts, one for choosing and one for scoring, dose-dependent gain and nats."""
    lines, scores = [], []
    for seed in (0, 1):
        for prompt, part in ((0, CHOOSING), (1, SCORING)):
            for copy in (-1.0, 1.0):
                lines.append((seed, part, -1, UNSTEERED, 0.0, prompt, 3.0 + 0.1 * copy, 1.0))
                scores.append(np.full(concepts, 0.5 * copy + prompt))
            for concept in range(concepts):
                for method in METHODS:
                    for multiplier in (0.1, 0.2, 0.4):
                        value = gain(method, multiplier)
                        own = np.full(concepts, float(prompt))
                        own[concept] += value
                        lines.append(
                            (seed, part, concept, method, multiplier, prompt, 3.0 + nats(method, multiplier), distinct)
                        )
                        scores.append(own)
    columns = ["seed", "part", "concept", "method", "multiplier", "neutral", "nats", "distinct"]
    frame, array = pd.DataFrame(lines, columns=columns), np.array(scores)
    return frame, {"probe": array, "lexicon": array}


def test_gains_are_counted_from_the_mean_unsteered_text_of_the_prompt():
    own = compared(*rows_of(lambda method, m: m * (method == "sae"), lambda method, m: m))
    sae = own[own["method"] == "sae"]
    assert np.allclose(sae["gain"], sae["multiplier"])
    assert np.allclose(own["nats_added"], own["multiplier"])
    assert (sae["specific"] == 1).all()
    assert (own[own["method"] != "sae"]["specific"] == 0.5).all()
    assert fluency(sae[sae["multiplier"] == 0.2]) == pytest.approx((np.exp(0.2), 1.0))


def test_the_chosen_length_is_the_largest_fluent_one_whatever_is_gained():
    added = {0.1: 0.0, 0.2: 0.1, 0.4: 2.0}
    own = compared(*rows_of(lambda method, m: -m, lambda method, m: added[m] if method == "sae" else 0.0))
    assert choose_lengths(own, LIMITS) == {"sae": 0.2, "diff_means": 0.4}  # 0.4 is not fluent for the latent
    repeating = compared(*rows_of(lambda method, m: m, lambda method, m: -1.0))
    assert set(choose_lengths(repeating, LIMITS).values()) == {0.0}  # too predictable
    dull = compared(*rows_of(lambda method, m: m, lambda method, m: 0.0, distinct=0.5))
    assert set(choose_lengths(dull, LIMITS).values()) == {0.0}
    assert collapse(own, "sae", LIMITS) == 0.4
    assert collapse(own, "diff_means", LIMITS) == float("inf")
    assert collapse(dull, "sae", LIMITS) == 0.1


def test_choosing_never_sees_the_scoring_prompts_nor_a_score():
    frame, scores = rows_of(lambda method, m: m, lambda method, m: m)
    before = choose_lengths(compared(frame, scores), LIMITS)
    frame.loc[(frame["part"] == SCORING) & (frame["method"] != UNSTEERED), "nats"] = 99.0
    assert choose_lengths(compared(frame, {key: -values for key, values in scores.items()}), LIMITS) == before
    tried = frame[frame["part"] == CHOOSING].reset_index(drop=True)
    assert choose_lengths(read_alike(tried), LIMITS) == before, "the choosing texts alone give the same choice"
    for seed in range(3):
        halves = [set(concepts.draw_prompts(4, seed, half, 3)) for half in (0, 1)]
        assert not halves[0] & halves[1]


def test_controls_share_the_concepts_and_differences_are_paired():
    rng = np.random.default_rng(0)
    control = rng.normal(size=(20, 3))
    effect = control + 1 + 0.01 * rng.normal(size=(20, 3))
    found = evidence.over_concepts(effect, "1", "f", {"null": control})
    assert found.uncertainty.model_dump() == {"unit": "concepts", "count": 20}
    assert found.per_seed == pytest.approx(effect.mean(0))
    difference = found.control("null").difference
    assert (difference.ci_low, difference.ci_high) == pytest.approx((1, 1), abs=0.02)
    assert difference.per_seed == pytest.approx((effect - control).mean(0))
    packages = ["a"] * 10 + ["b"] * 5 + ["c"] * 5
    assert evidence.over_concepts(effect, "1", "f", packages=packages).uncertainty.count == 3


def test_wins_are_counted_concept_by_concept():
    ones, others = np.array([[1.0], [2.0], [0.0], [5.0]]), np.array([[0.0], [1.0], [0.0], [9.0]])
    assert evidence.wins(ones, others).tolist() == [[1.0], [1.0], [0.5], [0.0]]
    texts = np.array([[0.0, 3.0], [0.0, -3.0]])
    assert evidence.wins(texts, np.ones((2, 2))).tolist() == [[1.0], [0.0]], "all texts of a concept count together"


DOSES = [0.1, 0.2, 0.4]


def test_dose_response_of_a_planted_method_and_of_nothing():
    def gain(method, m):
        return 2 * m if method == "sae" else 1.0 if method == "diff_means" else 0.5 if method == RANDOM else 0.0

    frame, scores = rows_of(gain, lambda method, m: 0.1, concepts=8)
    generator = np.random.default_rng(0)
    scores["probe"] += 0.01 * generator.normal(size=scores["probe"].shape)
    own = compared(frame, scores)
    found = measure.dose_response(own[own["part"] == SCORING], 8, [0, 1], DOSES)
    literal = np.polyfit([0, *DOSES], [0.0, *(2 * np.array(DOSES))], 1)[0]
    sae = found["sae_dose_slope"]
    assert sae.value == pytest.approx(literal, abs=0.05)
    constant = np.polyfit([0, *DOSES], [0.0, 0.5, 0.5, 0.5], 1)[0]
    assert sae.control(RANDOM).value == pytest.approx(constant, abs=0.05)
    assert [control.name for control in sae.controls] == ["random_latent", "random_direction", "permuted_means"]
    assert all(control.difference.ci_low > 0 for control in sae.controls)
    nothing = found["random_latent_dose_slope"]
    assert nothing.ci_low < 0.05
    assert nothing.control(RANDOM).difference.ci_high < 0
    assert evidence.slopes(np.array([[[0.0, 1.0, 2.0, 4.0]]]), [0.0, 1.0, 2.0, 4.0])[0, 0] == pytest.approx(1)


def test_texts_that_fall_apart_are_seen_to_lose_their_concept():
    own = compared(*rows_of(lambda method, m: {0.1: 1.0, 0.2: 3.0, 0.4: 0.5}[m], lambda method, m: 10 * (m == 0.4)))
    found = measure.falling_apart(own, LIMITS)
    assert (found["sae_collapse"].value, found["sae_peak"].value) == (0.4, 0.2)
    assert found["sae_gain_at_peak"].value == pytest.approx(3)
    assert found["sae_gain_at_longest"].value == pytest.approx(0.5)
    never = compared(*rows_of(lambda method, m: m, lambda method, m: 0.0))
    assert measure.falling_apart(never, LIMITS)["sae_collapse"].value == 0


def test_chosen_lengths_are_compared_with_nulls_of_the_same_length():
    arms = measure.arms_of({"diff_means": 0.2, "sae": 0.0}, 0.4)
    assert arms["fluent_diff_means"] == ("diff_means", 0.2)
    assert arms["permuted_means_as_diff_means"] == ("permuted_means", 0.2)
    assert arms["random_direction_as_diff_means"] == (RANDOM, 0.2)
    assert arms["fluent_sae"][1] == arms["random_latent_as_sae"][1] == -1.0, "left alone"
    generator = np.random.default_rng(0)
    values = {arm: generator.normal(size=(30, 3)) * 0.1 for arm in arms}
    values["fluent_diff_means"] = values["random_direction_as_diff_means"] + 1 + 0.1 * generator.normal(size=(30, 3))
    tables = {(arm, column): value for arm, value in values.items() for column in evidence.MEASURES}
    found = measure.effects(tables, ["a"] * 17 + ["b", "c", "d"] * 4 + ["e"])
    means = found["fluent_diff_means_gain"]
    assert [control.name for control in means.controls] == ["permuted_means", "random_direction"]
    assert means.control("random_direction").difference.value == pytest.approx(1, abs=0.05)
    assert means.control("permuted_means").difference.ci_low > 0.8
    assert found["fluent_diff_means_gain_by_package"].uncertainty.unit == "packages"
    assert {control.name for control in found["sae_gain"].controls} == set(NULLS)
    won = measure.ranks(tables)["diff_means_over_sae_share"]
    assert won.control("two_nulls").ci_low < 0.5 < won.control("two_nulls").ci_high
    assert won.per_seed is None


def test_numbers_of_the_judge_count_each_concept_once():
    rows = pd.DataFrame({"seed": [0, 0, 1, 1], "concept": ["a", "b"] * 2, "detection": [0.9, 0.7, 0.7, 0.9]})
    found = measure.judging(rows.assign(judge=[1.0, 0.8] * 2, judge_permuted=0.5, inside=2.0, ridge=3.0))
    assert (found["judge_auroc"].value, found["judge_auroc"].n) == (pytest.approx(0.9), 2)
    assert found["detection_auroc"].ci_low == found["detection_auroc"].ci_high == pytest.approx(0.8)
    assert found["judge_auroc"].control("permuted_labels").difference.value == pytest.approx(0.4)
    assert (found["judge_inside"].value, found["judge_ridge"].value) == (2, 3)
