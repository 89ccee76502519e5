"""The measures on made-up effects whose answer is known: halves, nulls, figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.figures import draw_figures
from common.core.metrics import Metric
from common.core.settings import ROOT
from common.core.statistics import over_clusters
from replications.ioi_circuit import direct_path, figures, prompt_statistics
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.prompt_statistics import clustered, role_flips
from tests.fixtures.ioi_circuit_tiny import tiny_prompts, within

LAYERS, HEADS = 6, 3


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return tiny_prompts([0, 1, 2])


@pytest.fixture(scope="module")
def planted(prompts: list[Prompt]) -> dict[str, np.ndarray]:
    """Effects on (IO, S): head 5.1 raises S by 2 logits on removal, 4.0 lowers IO by 1, 5.2 raises IO by 0.8."""
    noise = np.random.default_rng(0).normal(0, 0.1, size=(2, len(prompts), LAYERS, HEADS, 2))
    effects = {"abc": noise[0].copy(), "nouns_redrawn": noise[1].copy(), "roles_flipped": noise[1].copy()}
    effects["abc"][:, 5, 1, 1] += 2.0
    effects["abc"][:, 4, 0, 0] -= 1.0
    effects["abc"][:, 5, 2, 0] += 0.8
    return effects


def metrics_of(effects: dict[str, np.ndarray], prompts: list[Prompt]) -> dict[str, Metric]:
    """With an MLP in layer 2 that lowers IO by 0.6 on removal."""
    together = effects["abc"].sum((1, 2))
    mlps = np.random.default_rng(3).normal(0, 0.1, size=(len(prompts), LAYERS, 2))
    mlps[:, 2, 0] -= 0.6
    return direct_path.measure_writers(effects, mlps, together, np.full(len(prompts), 4.0), prompts, 200)


def test_planted_heads_are_measured(planted: dict[str, np.ndarray], prompts: list[Prompt]) -> None:
    metrics = metrics_of(planted, prompts)
    assert within(metrics["strongest_negative"], -50, 2)
    assert within(metrics["strongest_positive"], 20, 2)
    assert within(metrics["one_head_on_s"], 50, 2)
    assert metrics["one_head_on_s"].control("fall_of_io").value == pytest.approx(0, abs=2)
    assert metrics["one_head_on_s"].control("next_writer").value == pytest.approx(25, abs=2)  # it lowers IO
    assert metrics["one_head_on_s"].control("strongest_mlp").value == pytest.approx(15, abs=2)
    assert within(metrics["strongest_mlp"], -15, 2)
    assert metrics["flip_one_head"].value == pytest.approx(0, abs=2)
    assert metrics["all_heads_on_s"].value == pytest.approx(50, abs=5)
    assert metrics["all_heads_on_s"].control("fall_of_io").value == pytest.approx(25 - 20, abs=5)
    assert metrics["strongest_negative"].control("nouns_redrawn").value == pytest.approx(0, abs=2)
    assert metrics["strongest_negative"].per_seed is not None
    assert len(metrics["strongest_negative"].per_seed) == 3


def test_null_contains_zero_and_excludes_the_planted_effect(
    planted: dict[str, np.ndarray], prompts: list[Prompt]
) -> None:
    metrics = metrics_of(planted, prompts)
    for name, effect in (("strongest_negative", -50), ("strongest_positive", 20)):
        null = metrics[name].control("flipped_roles")
        assert null.n == 200
        assert null.ci_low < 0 < null.ci_high
        assert not null.ci_low < effect < null.ci_high


def test_without_any_effect_crossfit_is_unbiased_and_the_naive_choice_is_not() -> None:
    """Best of 500 heads: chosen and measured on the same prompts it looks strong, on the other half it does not."""
    generator = np.random.default_rng(1)
    effects = generator.normal(0, 1, size=(120, 500))
    half = np.arange(120) % 2
    naive = effects.mean(0).min()
    honest = [
        prompt_statistics.crossfit(generator.normal(0, 1, size=(120, 500)), half, 1, -1).mean() for _ in range(40)
    ]
    assert naive < -0.2
    assert abs(np.mean(honest)) < 0.05


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), top=st.integers(1, 4), sign=st.sampled_from([-1, 1]))
def test_crossfit_equals_the_literal_loop(seed: int, top: int, sign: int) -> None:
    generator = np.random.default_rng(seed)
    effects, half = generator.normal(size=(12, 7)), generator.permutation(np.arange(12) % 2)
    expected = []
    for row in range(12):
        others = [other for other in range(12) if half[other] != half[row]]
        ranked = sorted(range(7), key=lambda head: -sign * np.mean([effects[other, head] for other in others]))
        expected.append(sum(effects[row, head] for head in ranked[:top]))
    np.testing.assert_allclose(prompt_statistics.crossfit(effects, half, top, sign), expected, atol=1e-12)


def test_null_of_flipped_roles_goes_through_the_same_choice() -> None:
    generator = np.random.default_rng(2)
    effects, half = generator.normal(1, 0.1, size=(20, 5)), np.arange(20) % 2
    unchanged = prompt_statistics.crossfit_null(effects, half, 2, -1, np.ones((1, 20)))
    np.testing.assert_array_equal(unchanged[0], prompt_statistics.crossfit(effects, half, 2, -1))
    flips = role_flips(20, 500)
    assert set(np.unique(flips)) == {-1.0, 1.0}
    assert abs(flips.mean()) < 0.05


def test_clustered_interval_is_wider_than_if_prompts_were_independent(prompts: list[Prompt]) -> None:
    by_template = np.array([float(prompt.template) for prompt in prompts])
    metric = clustered(by_template, prompts, unit="1", formula="template number")
    naive = 1.96 * by_template.std() / np.sqrt(len(prompts))
    assert metric.ci_high - metric.ci_low > 3 * naive
    assert metric.per_seed == pytest.approx([21.5, 21.5, 21.5])


def test_the_interval_covers_the_truth_with_the_templates_of_a_half() -> None:
    """Where templates differ, prompts that are resampled alone miss the truth; here the interval holds it."""
    prompts = [prompt for prompt in tiny_prompts(list(range(10))) if prompt.half == 0]
    templates, rng, hits, trials = np.array([prompt.template for prompt in prompts]), np.random.default_rng(0), [], 60
    assert len(set(templates.tolist())) == 22
    for spread in (1.0, 0.0):
        found = np.zeros(2)
        for _ in range(trials):
            values = spread * rng.normal(size=templates.max() + 1)[templates] + rng.normal(size=len(prompts))
            ours = clustered(values, prompts, unit="1", formula="mean")
            alone = over_clusters(values, np.arange(len(prompts)), unit="1", formula="mean")
            found += [one.ci_low <= 0 <= one.ci_high for one in (ours, alone)]
        hits.append(found / trials)
    (ours_differ, alone_differ), (ours_same, _) = hits
    assert ours_differ > 0.88
    assert alone_differ < 0.6
    assert ours_same > 0.95
    assert ours.uncertainty is not None
    assert (ours.uncertainty.unit, ours.uncertainty.count) == ("templates", 22)


def test_ratio_is_a_ratio_of_means(prompts: list[Prompt]) -> None:
    below = np.random.default_rng(0).uniform(0.1, 10, len(prompts))
    above = np.ones(len(prompts))
    metric = clustered(above, prompts, unit="1", formula="ratio", denominators=below)
    assert metric.value == pytest.approx(1 / below.mean())
    assert metric.value < 0.7 * (above / below).mean()


def test_draws_are_one_control_with_their_mean_their_range_and_a_paired_difference(prompts: list[Prompt]) -> None:
    generator = np.random.default_rng(0)
    values, below = generator.normal(3, 1, len(prompts)), generator.uniform(1, 2, len(prompts))
    draws = generator.normal(0, 1, (200, len(prompts)))
    metric = clustered(values, prompts, unit="1", formula="x", denominators=below, draws={"noise": draws})
    control, ratios = metric.control("noise"), draws.sum(1) / below.sum()
    assert control.value == pytest.approx(ratios.mean())
    assert (control.ci_low, control.ci_high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
    assert control.difference.value == pytest.approx(metric.value - control.value)
    paired = clustered(values - draws.mean(0), prompts, unit="1", formula="x", denominators=below)
    assert (control.difference.ci_low, control.difference.ci_high) == pytest.approx((paired.ci_low, paired.ci_high))


@pytest.mark.usefixtures("unsaved_figures")
def test_figures_are_drawn_from_tables(planted: dict[str, np.ndarray], prompts: list[Prompt], tmp_path: Path) -> None:
    names = ("direct_path/heat_map", "direct_path/strongest_heads")
    (tmp_path / "direct_path").mkdir()
    table = direct_path.head_table(planted, np.full(len(prompts), 4.0), prompts)
    table.to_csv(tmp_path / "direct_path/heads.csv", index=False)
    svg = [tmp_path / f"{name.replace('/', '/figures/')}.svg" for name in names]
    draw_figures(figures.PLANS, [ROOT / f"replications/ioi_circuit/captions/{path.stem}.rst" for path in svg], svg)
    assert all(len(list(path.parent.glob(f"{path.stem}.*"))) == 5 for path in svg)
    drawn = pd.read_csv(tmp_path / "direct_path/figures/heat_map.csv")
    assert len(drawn) == 2 * 3 * LAYERS * HEADS  # two baselines
    top = drawn[(drawn["quantity"] == "difference") & (drawn["partner"] == "abc")].nsmallest(1, "percent").iloc[0]
    assert (top["layer"], top["head"]) == (5, 1)
