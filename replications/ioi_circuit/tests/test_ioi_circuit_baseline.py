"""Behaviour on made-up answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.core.errors import UserError
from common.core.metrics import Metric
from replications.ioi_circuit import baseline
from replications.ioi_circuit.baseline import BaselineFiles, measure
from replications.ioi_circuit.dataset import VERSIONS, Prompt
from replications.ioi_circuit.settings import Baseline
from tests.fixtures.ioi_circuit_tiny import tiny_prompts, within


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
    """All metrics. On ABC prompts the subject's logit is 2 below that of the name in S1."""
    slots = np.random.default_rng(6).normal(0, 0.5, (len(prompts), 3)) + np.array([own, 0.0, -2.0])
    return measure(table, prompts, slots, np.full((len(prompts), 3), 0.1), shuffles=200)


GOOD = {"original": 4.0, "abc": 0.0, "nouns_redrawn": 4.0, "roles_flipped": -4.0}


def test_baseline_metrics_of_a_model_that_does_the_task(prompts: list[Prompt]) -> None:
    metrics = baseline_metrics(answers_table(prompts, GOOD), prompts)
    assert within(metrics["logit_difference"], 4, 0.2)
    assert metrics["share_io_above_s"].value == 1
    controls = {control.name: control.value for control in metrics["logit_difference"].controls}
    assert controls == pytest.approx({"abc": 0, "abc_own": 0, "abc_own_s2": 2}, abs=0.2)
    shuffled = metrics["share_io_above_s"].control("shuffled_roles")
    assert 0.35 < shuffled.ci_low < 0.5 < shuffled.ci_high < 0.65
    assert within(metrics["nouns_redrawn_retained"], 1, 0.05)
    assert within(metrics["roles_flipped_retained"], 1, 0.1)
    assert metrics["roles_flipped_retained"].control("abc").difference.value == pytest.approx(1, abs=0.1)
    assert metrics["abc_own_s2_retained"].control("abc_own").difference.value == pytest.approx(0.5, abs=0.1)
    assert metrics["logit_difference_abba"].n == metrics["logit_difference_baba"].n == len(prompts) // 2


def test_missing_prompts_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        baseline.baseline(
            BaselineFiles(
                prompts=tmp_path / "none.json",
                activations=tmp_path / "a",
                metrics=tmp_path / "m.json",
                answers=tmp_path / "a.csv",
            ),
            Baseline(shuffles=100),
        )
