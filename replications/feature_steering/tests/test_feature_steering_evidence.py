"""What is made of the rows: fluency and the choice of a length, deviates, wins, dose-response, collapse."""

import numpy as np
import pandas as pd
import pytest

from replications.feature_steering import concepts, evidence, lengths, measure
from replications.feature_steering.choice import choose_lengths, collapse, compared, fluency, read_alike
from replications.feature_steering.settings import CHOOSING, DIALS, NO_DIAL, RANDOM, SCORING, Fluency

LIMITS = Fluency(perplexity=[0.5, 1.2], collapse=4.0, distinct=0.8)


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


def test_the_chosen_length_is_the_largest_fluent_one_whatever_is_gained():
    added = {0.1: 0.0, 0.2: 0.1, 0.4: 2.0}
    own = compared(*rows_of(lambda dial, m: -m, lambda dial, m: added[m] if dial == "sae" else 0.0))
    assert choose_lengths(own, LIMITS) == {"sae": 0.2, "diff_means": 0.4}  # 0.4 is not fluent for the latent
    repeating = compared(*rows_of(lambda dial, m: m, lambda dial, m: -1.0))
    assert set(choose_lengths(repeating, LIMITS).values()) == {0.0}  # too predictable
    dull = compared(*rows_of(lambda dial, m: m, lambda dial, m: 0.0, distinct=0.5))
    assert set(choose_lengths(dull, LIMITS).values()) == {0.0}
    assert collapse(own, "sae", LIMITS) == 0.4
    assert collapse(own, "diff_means", LIMITS) == float("inf")
    assert collapse(dull, "sae", LIMITS) == 0.1


def test_choosing_never_sees_the_scoring_prompts_nor_a_score():
    frame, scores = rows_of(lambda dial, m: m, lambda dial, m: m)
    before = choose_lengths(compared(frame, scores), LIMITS)
    frame.loc[(frame["part"] == SCORING) & (frame["dial"] != NO_DIAL), "nats"] = 99.0
    assert choose_lengths(compared(frame, {key: -values for key, values in scores.items()}), LIMITS) == before
    tried = frame[frame["part"] == CHOOSING].reset_index(drop=True)
    assert choose_lengths(read_alike(tried), LIMITS) == before, "the choosing texts alone give the same choice"
    for seed in range(3):
        halves = [set(concepts.draw_prompts(4, seed, half, 3)) for half in (0, 1)]
        assert not halves[0] & halves[1]


def test_a_deviate_is_a_mean_over_the_error_of_concepts_or_packages():
    values = np.array([0.3, 0.1, 0.5, 0.2])
    assert evidence.deviate(values) == pytest.approx(values.mean() / (values.std(ddof=1) / 2))
    names = ["a", "a", "b", "b"]
    apart = np.array([values[:2].mean(), values[2:].mean()])
    assert evidence.deviate(values, names) == pytest.approx(apart.mean() / (apart.std(ddof=1) / np.sqrt(2)))
    assert evidence.deviate(np.zeros(4)) == evidence.deviate(np.zeros(4), ["a"] * 4) == 0
    noise = np.random.default_rng(0).normal(size=(4000, 30))
    assert np.mean([abs(evidence.deviate(one)) > 1.96 for one in noise]) == pytest.approx(0.06, abs=0.02)
    found = evidence.deviates("x", values[:, None], names, "f")
    assert set(found) == {"x_z", "x_z_by_package"}
    assert (found["x_z"].n, found["x_z_by_package"].n) == (4, 2)


def test_wins_are_counted_concept_by_concept():
    found = evidence.wins("a", "b", np.array([1.0, 2.0, 0.0, 5.0]), np.array([0.0, 1.0, 0.0, 9.0]))
    assert found["a_over_b_share"].value == pytest.approx(2.5 / 4)
    assert found["a_over_b_sign"].value == pytest.approx((2 - 1) / np.sqrt(3))
    everywhere = evidence.wins("a", "b", np.ones(30), np.zeros(30))
    assert everywhere["a_over_b_sign"].value == pytest.approx(np.sqrt(30))
    assert everywhere["a_over_b_share"].ci_low == 1


DOSES = [0.1, 0.2, 0.4]


def test_dose_response_of_a_planted_dial_and_of_nothing():
    def gain(dial, m):
        return 2 * m if dial == "sae" else 1.0 if dial == "diff_means" else 0.5 if dial == RANDOM else 0.0

    frame, scores = rows_of(gain, lambda dial, m: 0.1, concepts=8)
    generator = np.random.default_rng(0)
    scores["probe"] += 0.01 * generator.normal(size=scores["probe"].shape)
    own = compared(frame, scores)
    found = lengths.dose_response(own[own["part"] == SCORING], 8, [0, 1], DOSES, ["a", "b"] * 4)
    literal = np.polyfit([0, *DOSES], [0.0, *(2 * np.array(DOSES) - 0.5)], 1)[0]
    assert found["sae_dose_slope"].value == pytest.approx(literal, abs=0.05)
    assert found["sae_dose_z"].value > 3 > found["random_latent_dose_z"].value
    assert found["sae_rise_z"].value > 3 > abs(found["diff_means_rise_z"].value), "a step at 0 is no further rise"
    assert found["diff_means_dose_z"].value > 3
    assert found["sae_dose_slope_minus_random_latent"].ci_low > 0
    assert evidence.slopes(np.array([[[0.0, 1.0, 2.0, 4.0]]]), [0.0, 1.0, 2.0, 4.0])[0, 0] == pytest.approx(1)


def test_texts_that_fall_apart_are_seen_to_lose_their_concept():
    own = compared(*rows_of(lambda dial, m: {0.1: 1.0, 0.2: 3.0, 0.4: 0.5}[m], lambda dial, m: 10 * (m == 0.4)))
    found = lengths.falling_apart(own, LIMITS)
    assert (found["sae_collapse"].value, found["sae_peak"].value) == (0.4, 0.2)
    assert found["sae_gain_at_peak"].value == pytest.approx(3)
    assert found["sae_gain_at_longest"].value == pytest.approx(0.5)
    never = compared(*rows_of(lambda dial, m: m, lambda dial, m: 0.0))
    assert lengths.falling_apart(never, LIMITS)["sae_collapse"].value == 0


def test_chosen_lengths_are_compared_with_nulls_of_the_same_length():
    arms = measure.arms_of({"diff_means": 0.2, "sae": 0.0}, 0.4)
    assert arms["fluent_diff_means"] == ("diff_means", 0.2)
    assert arms["permuted_means_as_diff_means"] == ("permuted_means", 0.2)
    assert arms["random_direction_as_diff_means"] == (RANDOM, 0.2)
    assert arms["fluent_sae"][1] == arms["random_latent_as_sae"][1] == -1.0, "left alone"
    generator = np.random.default_rng(0)
    values = {arm: generator.normal(size=(30, 3)) * 0.1 for arm in arms}
    values["fluent_diff_means"] = values["random_direction_as_diff_means"] + 1 + 0.1 * generator.normal(size=(30, 3))
    tables = {(arm, column): value for arm, value in values.items() for column in lengths.MEASURES}
    found = measure.at_chosen_lengths(tables, ["a"] * 17 + ["b", "c", "d"] * 4 + ["e"])
    assert found["fluent_diff_means_z"].value > 20 > 3 > found["permuted_means_as_diff_means_z"].value
    assert found["fluent_diff_means_gain_minus_permuted_means"].ci_low > 0.8
    assert found["fluent_diff_means_gain_minus_random_direction"].value == pytest.approx(1, abs=0.05)
    won = measure.ranks(tables)
    assert abs(won["permuted_means_over_random_direction_sign"].value) < 3
    assert won["diff_means_over_sae_share_minus_null"].per_seed is None


def test_numbers_of_the_judge_count_each_concept_once():
    rows = pd.DataFrame({"seed": [0, 0, 1, 1], "concept": ["a", "b"] * 2, "detection": [0.9, 0.7, 0.7, 0.9]})
    found = measure.judging(rows.assign(judge=[1.0, 0.8] * 2, judge_permuted=0.5, inside=2.0, ridge=3.0))
    assert (found["judge_auroc"].value, found["judge_auroc"].n) == (pytest.approx(0.9), 2)
    assert found["detection_auroc"].ci_low == found["detection_auroc"].ci_high == pytest.approx(0.8)
    assert found["judge_auroc_difference"].value == pytest.approx(0.4)
    assert (found["judge_inside"].value, found["judge_ridge"].value) == (2, 3)
