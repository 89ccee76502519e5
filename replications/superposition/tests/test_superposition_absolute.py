"""Absolute values and ReLU units: data, loss, exact reference, who serves what, and what makes each metric fail."""

import pytest
import torch
from safetensors.torch import load_file

from common.core.step import RunInfo
from replications.superposition.absolute import (
    absolute_loss,
    asymmetry,
    inhibition,
    monosemantic_loss,
    polysemantic,
    random_codes,
    start_weights,
)
from replications.superposition.measure_neurons import (
    absolute_metrics,
    best_models,
    features_per_unit,
    neuron_metrics,
)
from replications.superposition.model import Data
from replications.superposition.settings import Absolute, AbsoluteTraining, Neurons
from replications.superposition.streams import batch
from replications.superposition.tests.planted import SEEDS, grid, missed
from replications.superposition.train_absolute import TrainFiles, train_absolute


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
    weights = start_weights(2, 4, 5, 0.1, seed=0)
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
    weights = {name: (20 * value + 0.1).double() for name, value in start_weights(2, 4, 5, 0.1, seed=0).items()}
    drawn = batch(torch.tensor([0.5, 0.2], dtype=torch.float64), 5, 20, seed=1, step=0, signed=True)
    data = Data(drawn.x.double(), drawn.weight.double())
    importance = 0.5 ** torch.arange(5, dtype=torch.float64)

    def loss(*values):
        return absolute_loss(dict(zip(weights, values, strict=True)), data, importance, hidden)

    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in weights.values()])


@pytest.mark.parametrize("s", [1.0, 0.3, 0.05])
def test_the_best_monosemantic_solution_has_its_loss_and_single_units_are_worse(s):
    """Two units for each of two features, the best constant for the others; or a unit for each of four features."""
    importance, at = 0.9 ** torch.arange(6), torch.tensor([s], dtype=torch.float64)
    data = batch(at, 6, 100_000, seed=0, step=0, signed=True)
    W1 = torch.zeros(1, 4, 6)
    W1[0, [0, 1, 2, 3], [0, 0, 1, 1]] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    b = torch.zeros(1, 6)
    b[0, 2:] = s / 2
    found = float(absolute_loss({"W1": W1, "W2": W1.mT.abs().contiguous(), "b": b}, data, importance, "relu")[0])
    exact = float(monosemantic_loss(at.float(), importance, 4)[0])
    assert found == pytest.approx(exact, rel=0.02)
    lone = torch.zeros(1, 4, 6)
    lone[0, range(4), range(4)] = 1.0
    b = torch.full((1, 6), s / 2)
    b[0, :4] = s / 4 / (1 - 3 * s / 8)  # with its slope, the best a single unit can do
    W2 = lone.mT * (1 - 1.5 * b[0, 0])
    assert float(absolute_loss({"W1": lone, "W2": W2.contiguous(), "b": b}, data, importance, "relu")[0]) > 1.05 * exact


def motif(outof=(0.5, 2.0), taken=2.0, times=2):
    """The paper's motif: the first half of the units serve two features each, the others inhibit what is disturbed."""
    W1, W2 = torch.zeros(2 * times, 2 * times), torch.zeros(2 * times, 2 * times)
    for u in range(times):
        first, second = 2 * u, 2 * u + 1
        W1[u, first], W1[u, second] = 2.0, 0.6
        W2[first, u], W2[second, u] = outof
        W1[times + u, first], W2[second, times + u] = 2.0, -taken
    return W1, W2


def test_the_papers_motif_is_recognised():
    W1, W2 = motif()
    order = torch.arange(4)
    assert asymmetry(W1, W2) == pytest.approx(1.0)
    assert asymmetry(W1, motif(outof=(2.0, 0.5))[1]) == pytest.approx(-1.0)
    assert asymmetry(torch.eye(4), torch.eye(4)) == 0.0  # no unit excites two features
    assert inhibition(W1, W2, order) == pytest.approx(4 / 4.3)  # 2 times 2 of 4 + 0.6 / 2, for each pair
    assert inhibition(W1, W2, torch.tensor([1, 0, 3, 2])) == 0.0
    assert inhibition(W1, motif(taken=0.0)[1], order) == 0.0


BOUNDS = {
    "loss_over_monosemantic": (None, 0.5),
    "polysemantic_units": (0.4, None),
    "asymmetry": (0.3, None),
    "inhibition": (0.5, None),
}
BROKEN = {
    "loss_over_monosemantic": {"loss": 1.1},
    "polysemantic_units": {"sparse": (torch.eye(16), torch.eye(16))},
    "asymmetry": {"sparse": motif(outof=(1.0, 1.0), times=8)},
    "inhibition": {"sparse": motif(taken=0.2, times=8)},
}


def planted(sparse, loss):
    """What the training step writes, dense monosemantic and sparse models; the first restart is the worse one."""
    W1, W2 = (torch.stack([torch.eye(16), one]).repeat(len(SEEDS), 1, 1, 1) for one in sparse)
    noise = 0.01 * torch.arange(len(SEEDS))[:, None]
    best = torch.stack([W1, W2])
    worse = torch.ones_like(best)
    found = torch.tensor([[1.05, loss]]) + noise
    both = torch.stack([worse, best], dim=3)
    return {
        "relu.W1": both[0], "relu.W2": both[1], "relu.loss": torch.stack([found + 1, found], dim=2),
        "relu.densities": torch.tensor([1.0, 0.01], dtype=torch.float64),
        "linear.W1": both[0][:, :1], "linear.W2": both[1][:, :1],
        "linear.loss": torch.stack([4 + noise, 3 + noise], dim=2),
        "linear.densities": torch.tensor([0.01], dtype=torch.float64),
        "codes.loss": torch.stack([0.9 + noise, 0.6 + noise], dim=2),
    }  # fmt: skip


@pytest.mark.parametrize("broken", [None, *BOUNDS])
def test_every_metric_needs_its_effect(broken):
    made = {"sparse": motif(times=8), "loss": 0.3} | BROKEN.get(broken, {})
    metrics = absolute_metrics(best_models(planted(**made)), 0.01, SEEDS)
    wrong = missed(metrics, **BOUNDS)
    assert broken in wrong if broken else not wrong
    assert metrics["loss_over_monosemantic"].control("random_codes").value == pytest.approx(0.6, abs=0.05)  # the best


def test_units_that_serve_several_features():
    alone, together = torch.eye(5, 10).double(), torch.cat([torch.eye(5), torch.eye(5)], dim=1).double()
    assert (float(polysemantic(alone)), float(polysemantic(together))) == (0, 5)
    assert (float(features_per_unit(alone)), float(features_per_unit(together))) == (1, 2)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    two, three = alone.clone(), alone.clone()
    two[:2, 5], three[:3, 5] = 1.0, 1.0
    densities = [0.5, 0.3, 0.15, 0.05]
    settings = Neurons.model_construct(monosemantic_density=0.5, polysemantic_density=0.05)
    bounds = {"dense_features_per_unit": (None, 1.2), "sparse_polysemantic": (4.5, None), "bands_missed": (None, 0.5)}
    for models, wrong in (([alone, two, three, together], set()), ([together, three, two, alone], set(bounds))):
        grids = {
            "relu_hidden": grid([[one] * 2 for one in models], densities),
            "relu": grid([[turned @ one] * 2 for one in models], densities),
        }
        assert missed(neuron_metrics(grids, settings, SEEDS), **bounds) == wrong


def test_training_computes_one_feature_in_two_units(tmp_path):
    training = AbsoluteTraining(
        n_features=4, n_hidden=2, importance_decay=0.1, densities=[1.0, 0.3], restarts=10, random_restarts=3,
        start_scale=0.3,
        evaluation_samples=512, optimisation={
            "steps": 250, "batch": 64, "learning_rate": 0.02, "decay": "cosine", "warmup": 0,
            "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "clip": 1000.0,
        },
    )  # fmt: skip
    run = RunInfo(scale="smoke", seeds=[1, 2], device="cpu")
    train_absolute(
        TrainFiles(models=tmp_path / "models.safetensors"), Absolute(training=training, judged_density=0.3), run
    )
    found = load_file(tmp_path / "models.safetensors")
    assert found["relu.W1"].shape == (2, 2, 10, 2, 4)
    assert float(found["relu.loss"].amin(-1).max()) < 1.3
    assert float(found["linear.loss"].min()) > 2
    assert found["codes.W1"].shape == (2, 1, 3, 2, 4)
    assert torch.equal(found["codes.W1"][0, 0], random_codes(3, 2, 4, 1))  # not learned
    assert float(found["codes.loss"].min()) > 2  # both features in both units


def test_random_codes_give_important_features_units_of_both_signs():
    W1 = random_codes(50, 8, 12, seed=3)
    assert set(W1.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert not W1[..., 8:].any()
    assert ((W1[..., :8] == 1).any(1) & (W1[..., :8] == -1).any(1)).all()
    units = (W1[..., :8] != 0).sum(1)
    assert (units == units[:, :1]).all()
    assert set(units[:, 0].tolist()) == {2, 3, 4, 5, 6}
