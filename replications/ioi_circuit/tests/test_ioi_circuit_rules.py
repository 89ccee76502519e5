"""Naming heads by rule, and finders and rules on a planted circuit and its twin."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replications.ioi_circuit import edge_ground_truth, ground_truth, planted_names
from replications.ioi_circuit.batches import balanced
from replications.ioi_circuit.classes import (
    HeadScores,
    direct_classes,
    inhibition_classes,
    previous_classes,
    s2_classes,
    stable_classes,
)
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.nodes import PLACES, others_of_layers
from replications.ioi_circuit.path_patching import measure_again
from replications.ioi_circuit.planted import TRUTH, measure_sizes, relative_sizes
from replications.ioi_circuit.prompt_statistics import SignificantEffects, family_threshold, significant, t_values
from replications.ioi_circuit.settings import Greedy, GroundTruth
from replications.ioi_circuit.sweeps import Effects
from tests.fixtures.ioi_circuit_tiny import tiny_prompts


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return tiny_prompts([0, 1])


@pytest.mark.parametrize("half", [0, 1])
def test_balanced_prompts_stay_in_their_half(prompts: list[Prompt], half: int) -> None:
    templates = {prompt.template for prompt in prompts if prompt.half == half}
    chosen = balanced(prompts, half, 2 * len(templates))
    assert {prompt.half for prompt in chosen} == {half}
    assert set(Counter(prompt.template for prompt in chosen).values()) == {2}
    assert {prompt.order for prompt in chosen} == {"ABBA", "BABA"}
    assert len({prompt.versions["original"].text for prompt in chosen}) == len(chosen)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_seed_gives_prompts_of_either_order(count: int) -> None:
    drawn = tiny_prompts(list(range(count)))
    templates = {prompt.template for prompt in drawn if prompt.half == 0}
    chosen = balanced(drawn, 0, 2 * count * len(templates))
    cells = Counter((prompt.template, prompt.seed, prompt.order) for prompt in chosen)
    assert set(cells.values()) == {1}
    assert len(cells) == 2 * count * len(templates)
    few = Counter((prompt.seed, prompt.order) for prompt in balanced(drawn, 0, 2 * count * 2))
    assert len(few) == 2 * count


def test_others_that_were_screened_out_count_with_the_sign_of_their_estimate(prompts: list[Prompt]) -> None:
    rows = [prompt for prompt in prompts if prompt.half == 0]
    before, again = Effects(), Effects()
    for effects, values in ((before, [1.0, 0.0]), (again, [0.5, -0.25])):
        change = np.repeat(np.array(values)[:, None], len(rows), 1)
        effects.values["logits"] = np.stack([change, np.zeros_like(change)], 2)
        effects.clean["logits"], effects.prompts["logits"] = np.full(len(rows), 2.0), rows
    before.estimate["logits"] = np.repeat(np.array([9.0, -1.0])[:, None], len(rows), 1)
    found = measure_again(before, again, {"logits": [0]}, {"logits": [1]})["effects_again"]
    assert found.value == pytest.approx(0.5)
    assert found.control("other_heads").value == pytest.approx(0.25)


def test_family_threshold_is_crossed_by_an_effect_and_by_luck_one_time_in_twenty() -> None:
    generator = np.random.default_rng(0)
    crossings = []
    for _ in range(60):
        values = generator.normal(size=(30, 14))
        crossings.append(np.abs(t_values(values)).max() > family_threshold(values, 100))
    assert np.mean(crossings) < 0.15
    values[3] += 3
    found = significant(values, 200)
    assert found.sign[3] == 1
    assert np.abs(found.sign).sum() == 1


def of(*values: int) -> SignificantEffects:
    """Heads whose mean is 1, -1 or 0 and counts if it is not 0."""
    return SignificantEffects(np.repeat(np.array(values, dtype=float)[:, None], 6, 1), threshold=1.0)


def test_rules_ask_for_effect_and_attention_and_copying() -> None:
    contrasts = {
        "to_io": of(1, 1, -1, 1, 0, -1, -1),
        "to_s2": of(-1, -1, 1, -1, 0, 0, 0),
        "to_s": of(-1, -1, 1, -1, 0, 1, 0),
        "to_end": of(0, 0, 0, 0, 0, 0, 1),
    }
    copying = {"copy_io": of(1, -1, -1, -1, 1, 1, 1), "copy_s": of(1, -1, -1, 1, 1, 1, 1)}
    found = direct_classes([of(-1, 1, -1, -1, 0, 1, 1)], HeadScores(contrasts, copying, {}, {}))
    assert found == {
        0: "name_mover", 1: "negative", 2: "s_suppressing", 3: "unclassified", 5: "s_copying", 6: "end_reader",
    }  # fmt: skip

    contrasts = {"induction": of(1, 0, 1), "duplicate": of(0, 1, 0)}
    repeated = {name: np.array([0.9, 0.9, 0.0]) for name in ("induction", "duplicate")}
    repeated |= {f"{name}_null": np.full(3, 0.1) for name in ("induction", "duplicate")}
    scores = HeadScores(contrasts, {}, repeated, {})
    assert s2_classes([of(-1, -1, -1), of(0, 0, 0)], scores) == {0: "induction", 1: "duplicate", 2: "unclassified"}
    assert s2_classes([of(1, 1, 0)], scores) == {0: "unclassified", 1: "unclassified"}

    repeated = {"previous": np.array([0.9, 0.05, 0.9]), "previous_null": np.full(3, 0.1)}
    found = previous_classes([of(-1, -1, 0)], HeadScores({"previous": of(1, 1, 1)}, {}, repeated, {}))
    assert found == {0: "previous", 1: "unclassified"}


def test_a_class_that_rests_on_few_prompts_is_no_class() -> None:
    """Head 0 acts on all forty prompts, head 1 on so few that the threshold is crossed by half of the resamples."""
    generator = np.random.default_rng(0)
    values = generator.normal(-1, 0.5, (3, 40))
    values[1] += 1 - 0.35 * values[1].std() - values[1].mean() - 1
    values[2] -= values[2].mean()
    effects = SignificantEffects(values, threshold=float(abs(t_values(values)[1])) - 0.05)
    scores = HeadScores({"to_s2": SignificantEffects(np.ones((3, 40)), 1.0)}, {}, {}, {})
    classes, shares = stable_classes(inhibition_classes, [effects], scores, 200)
    assert classes == {0: "s_inhibition", 1: "unstable"}
    assert shares[0] == 1
    assert 0.3 < shares[1] < 0.8


FEW = GroundTruth(
    n_prompts=28, minimum_percent=1.0, draws=100, resamples=20, greedy=Greedy(runs=1, iterations=1, candidates=7)
)


@pytest.fixture(scope="module")
def planted() -> dict[str, tuple[pd.DataFrame, dict[str, float]]]:
    torch.set_num_threads(1)
    return {name: ground_truth.one_model(7, name == "twin", FEW) for name in ("planted", "twin")}


def test_planted_circuit_is_recovered_and_its_twin_is_empty(
    planted: dict[str, tuple[pd.DataFrame, dict[str, float]]],
) -> None:
    record, twin = planted["planted"][1], planted["twin"][1]
    assert record["named_right"] == 1
    assert record["named_wrong"] == 0
    assert all(record[f"auroc_{finder}"] > 0.95 for finder in ("path_patching", "activation_patching", "attribution"))
    assert twin["named_right"] == twin["named_wrong"] == 0
    assert twin["auroc_path_patching"] < 0.9
    assert record["auroc_scores_smallest"] == 1  # heads that write nothing of a name are no suppressors
    assert twin["auroc_scores_mean"] < 0.8
    assert (record["named_any"], twin["named_any"]) == (7, 0)
    for finder in ("path_patching", "activation_patching", "attribution"):
        assert 0 < twin[f"largest_{finder}"] < 0.02 * record[f"largest_{finder}"]
        assert record[f"median_{finder}"] > 0.1 * record[f"largest_{finder}"]


def test_a_planted_backup_is_found_and_none_where_there_is_none() -> None:
    with torch.no_grad():
        records = [planted_names.backup_record(seed, FEW) for seed in (0, 2)]
    for record in records:
        assert record["backup_found"] == 1
        assert record["backup_wrong"] == record["backup_found_without"] == record["backup_wrong_without"] == 0
        assert record["backup_growth"] > 0.02 > abs(record["backup_growth_without"])
    metric = planted_names.measure_backups(records)["backup_found"]
    assert (metric.value, metric.control("no_backup").value) == (1, 0)


def test_sizes_of_edges_are_compared_with_the_planted_model() -> None:
    truth = np.array([True, True, False, False])
    planted = {"one": np.array([4.0, 2.0, 0.0, 0.0]), "two": np.array([1.0, 1.0, 2.0, 0.0])}
    twin = {"one": torch.tensor([[0.0, -1.0]]), "two": torch.tensor([[0.5, 0.0]])}
    found = edge_ground_truth.compare_sizes(planted, twin, truth)
    assert found == {
        "twin_size_one": 0.25, "planted_size_one": 0.75, "twin_size_two": 0.25, "planted_size_two": 0.5,
        "twin_size_any": 0.25, "planted_size_any": 0.5,
    }  # fmt: skip


def test_sizes_in_the_twin_keep_seeds_apart_and_name_the_worst_finder() -> None:
    one = relative_sizes({"a": 4.0, "b": 2.0}, {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    other = relative_sizes({"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 0.0})
    found = measure_sizes(pd.DataFrame([one, other]))
    assert found["twin_size_a"].per_seed == [0.25, 0.0]
    assert found["twin_size_any"].per_seed == [0.5, 0.0]
    assert found["twin_size_any"].control("planted").per_seed == [0.5, 0.5]
    assert found["twin_size_b"].control("planted").difference.per_seed == [0.0, -1.0]


def test_other_heads_stand_in_the_same_layers_and_none_twice() -> None:
    spared = {4, 5, 9}
    for seed in range(20):
        picked = others_of_layers([4, 5, 9], 4, spared, np.random.default_rng(seed))
        assert [head // 4 for head in picked] == [1, 1, 2]
        assert len(set(picked)) == 3
        assert not spared & set(picked)
    assert others_of_layers([0, 1, 2], 4, {0, 1, 2}, np.random.default_rng(0)) == [3]


def test_greedy_completeness_finds_what_is_missing_and_nothing_where_nothing_is(
    planted: dict[str, tuple[pd.DataFrame, dict[str, float]]],
) -> None:
    record = planted["planted"][1]
    assert 0.7 < record["faithfulness_complete"] < 1.3
    assert record["greedy_gap_incomplete"] > 0.8
    assert record["greedy_gap_complete"] < 0.4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_auroc_limits(seed: int) -> None:
    truth = np.zeros((3, 16))
    for layer, head, place in TRUTH:
        truth[PLACES.index(place), 4 * layer + head] = 1  # type: ignore[arg-type]
    noise = np.random.default_rng(seed).random(truth.shape)
    assert ground_truth.recovery(truth) == 1
    assert ground_truth.recovery(-truth) == 0
    assert ground_truth.recovery(np.zeros_like(truth)) == 0.5
    assert ground_truth.recovery(noise) == pytest.approx(1 - ground_truth.recovery(-noise))


def test_planted_models_are_measured_against_their_twins(
    planted: dict[str, tuple[pd.DataFrame, dict[str, float]]],
) -> None:
    """Two seeds with the planted record and its twin."""
    rows = [{**planted[name][1], "seed": float(seed)} for seed in (0, 1) for name in ("planted", "twin")]
    metrics = ground_truth.measure(pd.DataFrame(rows))
    assert metrics["named_right"].value == metrics["named_right"].ci_high == 1 > metrics["named_right"].ci_low + 0.1
    assert metrics["named_right"].control("twin").value == 0
    assert metrics["named_any"].control("twin").difference.value == 7
    assert [control.name for control in metrics["auroc_scores_smallest"].controls] == ["twin", "mean_in_twin"]
    assert metrics["greedy_gap_incomplete"].control("complete_circuit").difference.value > 0.4
