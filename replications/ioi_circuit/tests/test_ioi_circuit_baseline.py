"""Baseline and adversarial prompts on made-up answers: good models pass the claims, broken ones fail them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.core.claims import evaluate
from common.core.errors import UserError
from common.core.metrics import Metric
from replications.ioi_circuit import baseline
from replications.ioi_circuit.adversarial import EXTRAS, measure_adversarial
from replications.ioi_circuit.dataset import VERSIONS, Adversarial, Prompt
from tests.fixtures.ioi_circuit_tiny import CLAIMS, tiny_prompts, within


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return tiny_prompts([0, 1, 2])


def answers_table(prompts: list[Prompt], differences: dict[str, float]) -> pd.DataFrame:
    parts = []
    for version in VERSIONS:
        noise = np.random.default_rng(3).normal(0, 0.5, len(prompts))
        parts.append(
            pd.DataFrame(
                {
                    "seed": [prompt.seed for prompt in prompts],
                    "template": [prompt.template for prompt in prompts],
                    "order": [prompt.order for prompt in prompts],
                    "version": version,
                    "difference": differences[version] + noise,
                    "probability_io": 0.5 if version == "original" else 0.0,
                    "io_is_first": 1.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def baseline_metrics(table: pd.DataFrame, prompts: list[Prompt], own: float = 0.0) -> dict[str, Metric]:
    """All metrics but the adversarial ones. On ABC prompts the subject's logit is 2 below that of the name in S1."""
    slots = np.random.default_rng(6).normal(0, 0.5, (len(prompts), 3)) + np.array([own, 0.0, -2.0])
    slots_metrics = baseline.own_slots(table, prompts, slots, np.full((len(prompts), 3), 0.1))
    return baseline.measure(table, prompts, shuffles=200) | slots_metrics


GOOD = {"original": 4.0, "abc": 0.0, "nouns_redrawn": 4.0, "names_swapped": -4.0}


def test_the_adversarial_claim_holds_when_only_io_misleads(prompts: list[Prompt]) -> None:
    made = [
        Adversarial(index=index, extra=extra, text="", tokens=[])
        for index in range(0, 60, 2)
        for extra in EXTRAS
    ]  # fmt: skip
    generator = np.random.default_rng(8)
    own = np.stack([generator.normal(4, 0.1, len(prompts)), np.zeros(len(prompts))], 1)

    def verdict(drops: dict[str, float]) -> str:
        logits = np.array([[own[item.index, 0] - drops[item.extra], 0.0] for item in made])
        logits += generator.normal(0, 0.1, logits.shape)
        metrics = measure_adversarial(made, prompts, logits, logits, own, own)
        claim = next(claim for claim in CLAIMS if claim.id == "extra_mention_of_io_misleads")
        return evaluate("ioi_circuit", claim, "m", metrics).verdict

    assert verdict({"io": 2.0, "s": 0.2}) == "reproduced"
    assert verdict({"io": 2.0, "s": 2.0}) == "not reproduced"
    assert verdict({"io": 0.2, "s": 0.0}) == "same direction"


def test_baseline_metrics_of_a_model_that_does_the_task(prompts: list[Prompt]) -> None:
    metrics = baseline_metrics(answers_table(prompts, GOOD), prompts)
    assert within(metrics["logit_difference"], 4, 0.2)
    assert metrics["share_io_above_s"].value == 1
    assert within(metrics["logit_difference_abc"], 0, 0.2)
    shuffled = metrics["share_io_above_s_shuffled"]
    assert 0.35 < shuffled.ci_low < 0.5 < shuffled.ci_high < 0.65
    assert within(metrics["nouns_redrawn_retained"], 1, 0.05)
    assert within(metrics["names_swapped_retained"], 1, 0.1)
    assert within(metrics["names_swapped_minus_abc"], 1, 0.1)
    assert metrics["logit_difference_abba"].n == metrics["logit_difference_baba"].n == len(prompts) // 2


BASELINE_CLAIMS = [
    claim
    for claim in CLAIMS
    if claim.part == "baseline" and "gpt2" not in claim.models and "adversarial" not in claim.metric
]


@pytest.mark.parametrize("claim", BASELINE_CLAIMS, ids=lambda claim: claim.id)
def test_baseline_claims_pass_on_a_good_model_and_fail_on_broken_ones(claim, prompts: list[Prompt]) -> None:  # type: ignore[no-untyped-def]
    def verdict(differences: dict[str, float], p_io: float = 0.5) -> str:
        table = answers_table(prompts, differences)
        table.loc[table["version"] == "original", "probability_io"] = p_io
        metrics = baseline_metrics(table, prompts, own=differences["abc"])
        return evaluate("ioi_circuit", claim, claim.models[0], metrics).verdict

    assert verdict(GOOD) == "reproduced"
    # a model that prefers some names whatever their role: nothing follows the roles
    assert verdict({**GOOD, "abc": 4.0, "names_swapped": 4.0, "nouns_redrawn": 0.1, "original": 0.05}, 0.001) in (
        "not reproduced",
        "same direction",
    )


def test_missing_prompts_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        baseline.baseline(
            prompts=tmp_path / "none.json",
            activations=tmp_path / "a",
            shuffles=100,
            out=tmp_path / "m.json",
            answers=tmp_path / "a.csv",
        )


def test_claims_name_what_is_measured(prompts: list[Prompt]) -> None:
    table = answers_table(prompts, GOOD)
    metrics = baseline_metrics(table, prompts)
    for claim in BASELINE_CLAIMS:
        assert {claim.metric, claim.control.metric, claim.control.difference} <= set(metrics), claim.id
