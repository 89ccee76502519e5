"""In-context Markov chains, the sweep, and paths: predictors against literal counts, planted curves and times."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.toys.settings import Optimisation
from replications.induction_heads.curves import Transition, principal_components, turn_off
from replications.induction_heads.settings import Chains, Sizes, Sweep, Text
from replications.induction_heads.train_chains import (
    ChainsFiles,
    batch_of_chains,
    bigram,
    divergence,
    random_chains,
    summary,
    train_chains,
    unigram,
)
from replications.induction_heads.train_sweep import SweepFiles, co_occurrence, half_times, train_sweep

TINY = Optimisation(steps=20, batch=4, learning_rate=0.01, warmup=2, beta1=0.9, beta2=0.98, weight_decay=0.01, clip=1.0)


def test_chains_are_stochastic_and_doubly_stochastic_ones_have_equal_frequencies():
    generator = torch.Generator().manual_seed(0)
    plain, doubly = (random_chains(kind, 200, 3, generator) for kind in ("dirichlet", "doubly_stochastic"))
    for chains in (plain, doubly):
        torch.testing.assert_close(chains.sum(-1), torch.ones(200, 3))
    torch.testing.assert_close(doubly.sum(-2), torch.ones(200, 3))
    assert float((plain.sum(-2) - 1).abs().max()) > 0.5
    assert float(plain.mean()) == pytest.approx(1 / 3)


def test_paths_follow_their_chains_and_are_a_function_of_seed_and_step():
    chains, tokens = batch_of_chains("dirichlet", 4, 3, 4000, seed=1, step=2)
    for chain, path in zip(chains, tokens, strict=True):
        counts = torch.zeros(3, 3).index_put_((path[:-1], path[1:]), torch.ones(3999), accumulate=True)
        torch.testing.assert_close(counts / counts.sum(1, keepdim=True), chain, atol=0.08, rtol=0)
    assert torch.equal(tokens, batch_of_chains("dirichlet", 4, 3, 4000, seed=1, step=2)[1])
    assert not torch.equal(tokens, batch_of_chains("dirichlet", 4, 3, 4000, seed=1, step=3)[1])


def test_predictors_equal_literal_counts():
    _, tokens = batch_of_chains("dirichlet", 3, 3, 15, seed=5, step=0)
    pairs, singles = bigram(tokens, 3), unigram(tokens, 3)
    for row, path in enumerate(tokens.tolist()):
        for t in range(15):
            seen = [b for a, b in pairwise(path[: t + 1]) if a == path[t]]
            for symbol in range(3):
                expected = (seen.count(symbol) + 1) / (len(seen) + 3)
                assert float(pairs[row, t, symbol]) == pytest.approx(expected)
                expected = (path[: t + 1].count(symbol) + 1) / (t + 4)
                assert float(singles[row, t, symbol]) == pytest.approx(expected)


def test_the_bigram_predictor_is_the_best_and_counting_is_no_use_in_doubly_stochastic_chains():
    def of(kind):
        chains, tokens = batch_of_chains(kind, 400, 3, 64, seed=0, step=-1)
        truth = chains[torch.arange(400)[:, None], tokens]
        uniform = torch.full_like(truth, 1 / 3)
        return [float(divergence(truth, p).mean()) for p in (uniform, unigram(tokens, 3), bigram(tokens, 3))]

    uniform, one, two = of("dirichlet")
    assert two < 0.6 * one < 0.6 * uniform
    uniform, one, two = of("doubly_stochastic")
    assert two < uniform < one  # counting symbols is worse than knowing nothing
    assert float(divergence(torch.tensor([0.2, 0.8]), torch.tensor([0.2, 0.8]))) == pytest.approx(0, abs=1e-6)


def planted_rows(*, two_learns=True):
    """Curves of perfect models: two layers are the unigram predictor at step 2 and the bigram from step 3 on."""
    best = {"best_uniform": 0.27, "best_unigram": 0.19, "best_bigram": 0.09}
    staged = {"truth": [0.3, 0.27, 0.19, 0.1, 0.09, 0.09, 0.09], "to_unigram": [0.2, 0.1, 0.0, 0.1, 0.12, 0.12, 0.12],
              "to_bigram": [0.3, 0.2, 0.1, 0.01, 0.0, 0.0, 0.0]}  # fmt: skip
    stuck = {"truth": [0.3, 0.27, 0.19, 0.19, 0.19, 0.19, 0.19], "to_unigram": [0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0],
             "to_bigram": [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]}  # fmt: skip
    arms = {"two_layers": staged if two_learns else stuck, "two_layers_doubly": staged, "one_layer": stuck}
    rows = [
        {"arm": name, "seed": seed, "step": step, **{k: v[step] + 0.0003 * seed for k, v in columns.items()}, **best}
        for name, columns in arms.items()
        for seed in range(3)
        for step in range(7)
    ]
    return pd.DataFrame(rows)


def test_summary_of_perfect_curves_and_of_models_without_the_second_stage():
    perfect, stuck = summary(planted_rows()), summary(planted_rows(two_learns=False))
    assert perfect["end_over_bigram_two_layers"].value == pytest.approx(1, abs=0.01)
    assert perfect["end_over_bigram_two_layers"].control("one_layer").value == pytest.approx(0.19 / 0.09, abs=0.01)
    assert stuck["end_over_bigram_two_layers"].value == pytest.approx(0.19 / 0.09, abs=0.01)
    plateau = perfect["plateau_over_unigram_two_layers"]
    assert plateau.value == pytest.approx(1, abs=0.01)
    assert plateau.control("end_of_training").value == pytest.approx(0.09 / 0.19, abs=0.01)
    assert perfect["plateau_at_two_layers"].value == pytest.approx(2 / 6)
    assert perfect["halfway_at_two_layers"].value == pytest.approx(2.56, abs=0.05)


def test_chains_step_writes_every_arm(tmp_path):
    settings = Chains(
        sizes=Sizes(d_model=8, n_heads=1, d_head=8), n_symbols=2, length=12, held_out=8, measure_every=5,
        optimisation=TINY, n_seeds=2,
    )  # fmt: skip
    files = ChainsFiles(metrics=tmp_path / "metrics.json", curves=tmp_path / "curves.csv")
    train_chains(files, settings, RunInfo(scale="smoke", seeds=[0, 1, 2], device="cpu"))
    assert read_metrics(files.metrics)["end_over_bigram_two_layers"].value > 1.5  # twenty steps teach nothing
    assert set(pd.read_csv(files.curves)["arm"]) == {"two_layers", "two_layers_doubly", "one_layer"}


SWEPT = Text(length=18, d_vocab=20, shortest_block=4, longest_block=5, copies=3)


def sweep(tmp_path, **changes):
    files = SweepFiles(**{name: tmp_path / f"{name}.json" for name in ("metrics", "curves", "times")})
    settings = Sweep(
        sizes=Sizes(d_model=16, n_heads=2, d_head=8), text=SWEPT, optimisation=TINY, held_out=8, measure_every=5,
        **{"rates": [1.0, 0.5], "longest": [5, 6], **changes},
    )  # fmt: skip
    train_sweep(files, settings, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))
    return files


def test_sweep_of_models_that_never_change_has_no_slope(tmp_path):
    assert read_metrics(sweep(tmp_path).metrics)["slope"].value == 0


def test_sweep_refuses_data_that_cannot_repeat_and_too_few_settings(tmp_path):
    with pytest.raises(UserError, match="does not fit twice"):
        sweep(tmp_path, longest=[6, 10])
    with pytest.raises(UserError, match="too few for a slope"):
        co_occurrence(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))


def test_half_times_of_planted_curves():
    steps = np.arange(0, 1001, 5, dtype=np.float64)
    gains = 3 / (1 + np.exp(-(steps - 400) / 20))
    prefix = 0.1 + 0.8 / (1 + np.exp(-(steps - 390) / 20))
    assert half_times(steps, gains, prefix) == pytest.approx((400, 390), abs=1)
    assert half_times(steps, 0.1 * gains, prefix) == (1000, 1000)


def test_slope_of_planted_times_and_of_unrelated_ones():
    gain_at = np.array([200, 260, 300, 340, 420, 500, 640, 820.0])
    together = co_occurrence(gain_at, gain_at * np.array([1, 1.02, 0.99, 1.01, 1, 0.98, 1.01, 1]))
    assert 0.95 < together["slope"].ci_low < 1 < together["slope"].ci_high < 1.05
    assert together["slope"].control("permuted_settings").difference.ci_low > 0
    assert together["apart"].ci_high < 0.02 < together["apart"].control("permuted_settings").ci_low
    assert together["span"].value == pytest.approx(4.1)
    unrelated = co_occurrence(gain_at, gain_at[[3, 6, 0, 7, 1, 5, 2, 4]])
    assert unrelated["slope"].control("permuted_settings").difference.ci_low < 0
    assert unrelated["apart"].value > 0.3
    half_as_fast = co_occurrence(np.sqrt(gain_at) * 10, gain_at)
    assert half_as_fast["slope"].value == pytest.approx(0.5)


def test_turn_off_of_planted_paths():
    steps = np.arange(11, dtype=np.float64)
    change = Transition(5, 6, 8)
    straight = np.stack([steps, 2 * steps], 1)
    assert turn_off(steps, straight, change, 0.0) == pytest.approx(0, abs=1e-9)
    corner = np.stack([np.minimum(steps, 5), np.maximum(steps - 5, 0)], 1)
    assert turn_off(steps, corner, change, 0.0) == pytest.approx(3 / 5)
    assert turn_off(steps, np.zeros((11, 2)), change, 0.0) == 0


def test_principal_components_of_a_line_in_many_dimensions():
    along = np.linspace(-1, 1, 9)
    found, share = principal_components(np.outer(along, np.ones(6)) + 3)
    np.testing.assert_allclose(found[:, 0], along * math.sqrt(6), atol=1e-9)
    np.testing.assert_allclose(share, [1, 0], atol=1e-9)
