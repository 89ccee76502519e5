"""Absolute values and ReLU units: data, loss, who serves what, and what makes each metric fail."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.core.step import RunInfo
from replications.superposition.absolute import absolute_loss, start_weights, zero_answer_loss
from replications.superposition.measure_neurons import (
    absolute_metrics,
    kinds,
    neuron_metrics,
    own_unit_is_important,
    permuted_importance,
    polysemantic,
)
from replications.superposition.model import Data
from replications.superposition.motif import cancelled, compensation, interference, motif_metrics
from replications.superposition.settings import Absolute, AbsoluteTraining, MotifTraining
from replications.superposition.streams import batch
from replications.superposition.tables import rank_correlation
from replications.superposition.train_absolute import TrainFiles, train_absolute
from tests.fixtures.superposition_planted import SEEDS, grid, missed

N, M = 20, 40


def test_signs_are_even_and_sizes_those_of_the_unsigned_stream():
    at = torch.tensor([1.0, 0.05], dtype=torch.float64)
    x, weight = batch(at, 30, 4000, seed=0, step=3, signed=True)
    assert weight.sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    mean = (x.abs() * weight[:, None]).sum(-1).mean(-1)
    assert mean.tolist() == pytest.approx((at / 2).tolist(), rel=0.05)
    assert float((x[0] > 0).double().mean()) == pytest.approx(0.5, abs=0.01)


def test_two_units_a_feature_compute_the_absolute_value_and_linear_units_cannot():
    W1 = torch.cat([torch.eye(3), -torch.eye(3)])[None]
    weights = {"W1": W1, "W2": W1.mT.abs(), "b": torch.zeros(1, 3)}
    data = batch(torch.tensor([0.5], dtype=torch.float64), 3, 500, seed=0, step=0, signed=True)
    assert float(absolute_loss(weights, data, torch.ones(3), "relu")[0]) == pytest.approx(0.0, abs=1e-10)
    assert float(absolute_loss(weights, data, torch.ones(3), "linear")[0]) > 0.3


def test_loss_equals_a_loop_over_points_and_features():
    weights = start_weights(2, 4, 5, seed=0)
    weights = {name: 20 * value + 0.1 for name, value in weights.items()}
    data = batch(torch.tensor([0.5, 0.2], dtype=torch.float64), 5, 20, seed=1, step=0, signed=True)
    importance = 0.5 ** torch.arange(5)
    slow = torch.zeros(2)
    for k in range(2):
        for p in range(data.x.shape[2]):
            x = data.x[k, :, p]
            y = (weights["W2"][k] @ (weights["W1"][k] @ x).clamp(min=0) + weights["b"][k]).clamp(min=0)
            slow[k] += data.weight[k, p] * sum(importance[i] * (abs(x[i]) - y[i]) ** 2 for i in range(5))
    assert absolute_loss(weights, data, importance, "relu").tolist() == pytest.approx(slow.tolist(), rel=1e-4)


@pytest.mark.parametrize("hidden", ["relu", "linear"])
def test_the_written_gradient_is_that_of_the_loss(hidden):
    weights = {name: (20 * value + 0.1).double() for name, value in start_weights(2, 4, 5, seed=0).items()}
    drawn = batch(torch.tensor([0.5, 0.2], dtype=torch.float64), 5, 20, seed=1, step=0, signed=True)
    data = Data(drawn.x.double(), drawn.weight.double())
    importance = 0.5 ** torch.arange(5, dtype=torch.float64)

    def loss(*values):
        return absolute_loss(dict(zip(weights, values, strict=True)), data, importance, hidden)

    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in weights.values()])


def test_answering_nothing_has_the_loss_we_divide_by():
    at = torch.tensor([0.3], dtype=torch.float64)
    nothing = {name: torch.zeros_like(value) for name, value in start_weights(1, 4, 8, seed=0).items()}
    data: Data = batch(at, 8, 20000, seed=0, step=0, signed=True)
    importance = 0.8 ** torch.arange(8)
    expected = float(zero_answer_loss(at.float(), importance)[0])
    assert float(absolute_loss(nothing, data, importance, "relu")[0]) == pytest.approx(expected, rel=0.03)


def dedicated(features):
    """Two units a feature; the units left over serve nothing."""
    W1 = torch.zeros(M, N)
    for k, feature in enumerate(features):
        W1[2 * k, feature], W1[2 * k + 1, feature] = 1.0, -1.0
    return W1


def shared():
    return torch.randn(M, N, generator=torch.Generator().manual_seed(0))


def mixed(alone):
    """`alone` features have units of their own; the other units share all other features."""
    W1 = dedicated(alone)
    rest = [i for i in range(N) if i not in alone]
    for k in range(2 * len(alone), M):
        W1[k, rest] = 1.0
    return W1


def test_kinds_of_features():
    own, others = kinds(mixed([0, 1, 2]))
    assert own.nonzero()[:, 0].tolist() == [0, 1, 2]
    assert int(others.sum()) == N - 3
    assert own_unit_is_important(mixed([0, 1, 2])) == 1.0
    assert own_unit_is_important(mixed([17, 18, 19])) == 0.0
    assert own_unit_is_important(dedicated(range(N))) == 0.5
    assert permuted_importance(mixed([0, 1, 2]), 0) == pytest.approx(0.5, abs=0.05)


def motif(outof=(0.5, 2.0), inhibition=2.0):
    """The paper's motif, twice: units 0 and 1 serve two features each, units 2 and 3 inhibit what is disturbed."""
    W1, W2 = torch.zeros(4, 4), torch.zeros(4, 4)
    for u in range(2):
        first, second = 2 * u, 2 * u + 1
        W1[u, first], W1[u, second] = 2.0, 0.5
        W2[first, u], W2[second, u] = outof
        W1[2 + u, first], W2[second, 2 + u] = 2.0, -inhibition
    return W1, W2


def test_the_papers_motif_is_recognised():
    W1, W2 = motif()
    assert compensation(W1, W2) == pytest.approx(1.0)
    assert compensation(W1, motif(outof=(2.0, 0.5))[1]) == pytest.approx(-1.0)
    assert compensation(torch.eye(4), torch.eye(4)) == 0.0  # no unit excites two features
    raised, lowered = interference(W1, W2, torch.arange(4))
    assert [float(one[0, 1, 0]) for one in (raised, lowered)] == [4.0, 4.0]  # feature 0 at 1, answer 1
    assert [float(one[0, 0, 1]) for one in (raised, lowered)] == [0.25, 0.0]
    assert not raised[1].any()  # no unit sees negative values
    assert cancelled(W1, W2, torch.arange(4)) == pytest.approx(4 / 4.25)
    assert cancelled(W1, W2, torch.tensor([1, 0, 3, 2])) == 0.0
    assert cancelled(W1, motif(inhibition=0.0)[1], torch.arange(4)) == 0.0


GOOD = {
    "dense": dedicated(range(N)), "mixed": mixed([0, 1, 2, 3]), "sparser": mixed([0, 1]), "sparse": shared(),
    "error": 0.05, "motif": motif(),
}  # fmt: skip
BOUNDS = {
    "error": (None, 0.2),
    "dense_polysemantic": (None, 6),
    "sparse_polysemantic": (30, None),
    "own_unit_importance": (0.8, None),
    "own_unit_importance_sparser": (0.8, None),
    "compensation": (0.4, None),
    "cancelled": (0.8, None),
}
BROKEN = {
    "compensation": {"motif": motif(outof=(1.0, 1.0))},
    "cancelled": {"motif": motif(inhibition=0.5)},
    "error": {"error": 0.5},
    "dense_polysemantic": {"dense": shared()},
    "own_unit_importance_sparser": {"sparser": mixed([18, 19])},
    "sparse_polysemantic": {"sparse": dedicated(range(N))},
    "own_unit_importance": {"mixed": mixed([16, 17, 18, 19])},
}
SETTINGS = Absolute.model_construct(mixed_density=0.1, sparser_density=0.03)


def planted(W1, densities, error=0.05, small=None):
    """What the training step writes, the same weights for every seed; the first small start is too bad to count."""
    loss = error + 0.001 * torch.arange(len(SEEDS))
    tensors = {
        "relu.W1": W1.repeat(len(SEEDS), 1, 1, 1),
        "relu.loss": loss[:, None].repeat(1, len(W1)),
        "relu.densities": torch.tensor(densities, dtype=torch.float64),
        "linear.loss": (0.85 + 0.01 * torch.arange(len(SEEDS)))[:, None],
        "linear.densities": torch.tensor([0.1], dtype=torch.float64),
        "motif.loss": torch.tensor([1.0, 0.1]).repeat(len(SEEDS), 1),
    }
    for name, weights in zip(("motif.W1", "motif.W2"), small or motif(), strict=True):
        tensors[name] = torch.stack([torch.ones(4, 4), weights]).repeat(len(SEEDS), 1, 1, 1)
    return tensors


@pytest.mark.parametrize(("order", "expected"), [("rising", set()), ("falling", {"polysemantic_rank"})])
def test_polysemantic_units_become_more_with_sparsity(order, expected):
    """Eight densities at which 0, 5, 10 ... units serve several features, and the same turned round."""
    W1 = torch.stack([mixed([*range(N - k)][: (M - 5 * k) // 2]) for k in range(8)])
    densities = [1.0, 0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.001]
    metrics = absolute_metrics(planted(W1 if order == "rising" else W1.flip(0), densities), SETTINGS, SEEDS)
    assert missed(metrics, polysemantic_rank=(0.9, None)) == expected


def test_a_constant_count_has_no_rank_correlation():
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0.0
    assert rank_correlation(np.arange(5.0) ** 3, np.arange(5.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [None, *BOUNDS])
def test_every_metric_needs_its_effect(broken):
    made = GOOD | BROKEN.get(broken, {})
    W1 = torch.stack([made[name] for name in ("dense", "mixed", "sparser", "sparse")])
    tensors = planted(W1, [1.0, 0.1, 0.03, 0.001], made["error"], made["motif"])
    wrong = missed(absolute_metrics(tensors, SETTINGS, SEEDS) | motif_metrics(tensors, SEEDS), **BOUNDS)
    assert broken in wrong if broken else not wrong


def test_units_that_serve_several_features():
    alone, together = torch.eye(5, 10).double(), torch.cat([torch.eye(5), torch.eye(5)], dim=1).double()
    assert float(polysemantic(alone)) == 0
    assert float(polysemantic(together)) == 5
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    grids = {
        "relu_hidden": grid([[alone] * 2, [together] * 2], [1.0, 0.02]),
        "relu": grid([[turned @ alone] * 2] * 2, [1.0, 0.02]),
    }
    metrics = neuron_metrics(grids, 1.0)
    assert missed(metrics, dense_polysemantic=(None, 0.5), sparse_polysemantic=(4.5, None)) == set()


def test_training_computes_one_feature_in_two_units(tmp_path):
    optimisation = {
        "steps": 300, "batch": 64, "learning_rate": 0.02, "decay": "cosine", "warmup": 0,
        "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "clip": 1000.0,
    }  # fmt: skip
    training = AbsoluteTraining(
        n_features=4, n_hidden=3, importance_decay=0.1, densities=[1.0, 0.3], control_density=0.3,
        evaluation_samples=512, optimisation=optimisation,
    )  # fmt: skip
    small = MotifTraining(
        n_features=3, n_hidden=2, density=0.2, restarts=4, evaluation_samples=64,
        optimisation=optimisation | {"steps": 5},
    )  # fmt: skip
    settings = Absolute(training=training, motif=small, mixed_density=0.3, sparser_density=0.3)
    run = RunInfo(scale="smoke", seeds=[1, 2], device="cpu")
    train_absolute(TrainFiles(models=tmp_path / "models.safetensors"), settings, run)
    found = load_file(tmp_path / "models.safetensors")
    assert found["relu.W1"].shape == (2, 2, 3, 4)
    assert found["motif.W1"].shape == (2, 4, 2, 3)
    assert float(found["relu.loss"].max()) < 0.2
    assert float(found["linear.loss"].min()) > 0.5
