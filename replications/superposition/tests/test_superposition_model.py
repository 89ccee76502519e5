"""The toy model, its sampler and its optimiser: slow literal versions, exact moments, the paper's own optimiser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.errors import UserError
from replications.superposition.geometry import checked_dimensionality
from replications.superposition.grid import load_grid, save_grids, train_grid
from replications.superposition.model import Data, evaluate, sample, stack
from replications.superposition.settings import Effort
from replications.superposition.tables import worst_gap
from replications.superposition.theory import variance
from replications.superposition.training import _unfinished, initial, minimise


def literal_loss(W, b, x, weight, importance, relu):
    """One sample, one feature at a time."""
    total = 0.0
    for k in range(x.shape[1]):
        hidden = [sum(float(W[h, i]) * float(x[i, k]) for i in range(x.shape[0])) for h in range(W.shape[0])]
        for i in range(x.shape[0]):
            output = sum(float(W[h, i]) * hidden[h] for h in range(W.shape[0])) + float(b[i])
            output = max(output, 0.0) if relu else output
            total += float(weight[k]) * float(importance[i]) * (float(x[i, k]) - output) ** 2
    return total


def random_models(n_instances, n_hidden, n_features, seed):
    generator = torch.Generator().manual_seed(seed)
    W, b = initial(n_instances, n_hidden, n_features, generator)
    return W, b + 0.3 * torch.randn(b.shape, generator=generator, dtype=b.dtype)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_batched_loss_equals_the_literal_loop(activation):
    data = stack([sample(0.4, 3, 16, 1), sample(0.9, 3, 16, 2)])
    W, b = random_models(4, 2, 3, 0)  # two models for each of the two data sets
    importance = torch.rand(4, 3, dtype=torch.float64)
    found = evaluate(W, b, data, importance, activation).loss
    for k in range(4):
        own = (data.x[k // 2], data.weight[k // 2])
        slow = literal_loss(W[k], b[k], *own, importance[k], activation == "relu")
        assert float(found[k]) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_written_gradient_equals_autograd(activation):
    data = sample(0.5, 5, 64, 0)
    W, b = (one.requires_grad_() for one in random_models(3, 2, 5, 1))
    importance = torch.rand(3, 5, dtype=torch.float64)
    output = torch.einsum("imf,imh,hs->ifs", W, W, data.x[0]) + b[..., None]
    output = output.relu() if activation == "relu" else output
    loss = (importance[..., None] * (data.x - output) ** 2 * data.weight[:, None]).sum((1, 2))
    loss.sum().backward()
    found = evaluate(W.detach(), b.detach(), data, importance, activation)
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.grad_W, W.grad)
    torch.testing.assert_close(found.grad_b, b.grad)


@given(density=st.floats(0.02, 1.0), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_sample_has_the_papers_moments(density, seed):
    x, weight = sample(density, 4, 4096, seed)
    assert float(weight.sum()) == pytest.approx(1.0)
    assert float(weight[0, 0]) == pytest.approx((1 - density) ** 4)
    assert bool((x[0].sum(0)[1:] > 0).all())  # every other row has an active feature
    mean = torch.einsum("dfs,ds->f", x, weight)
    second = torch.einsum("dfs,dgs,ds->fg", x, x, weight)
    np.testing.assert_allclose(mean, density / 2, rtol=0.06)
    np.testing.assert_allclose(second.diagonal(), density / 3, rtol=0.06)
    np.testing.assert_allclose(second.diagonal() - mean**2, variance(density), rtol=0.08)
    off = second[~torch.eye(4, dtype=torch.bool)]
    np.testing.assert_allclose(off, density**2 / 4, atol=0.03 * density)


def test_sampling_is_decided_by_its_seed():
    assert torch.equal(sample(0.3, 5, 32, 7).x, sample(0.3, 5, 32, 7).x)
    assert not torch.equal(sample(0.3, 5, 32, 7).x, sample(0.3, 5, 32, 8).x)


def test_chunks_do_not_change_the_models(monkeypatch):
    def grid():
        importance = torch.tensor([[1.0, 0.3], [1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        effort = Effort(restarts=2, samples=64, evaluation_samples=64, steps=20)
        return train_grid([0.5, 0.2], importance, 1, "relu", effort=effort, seeds=[0, 1], device="cpu")

    whole = grid()
    monkeypatch.setattr("replications.superposition.grid.CHUNK", {"cpu": 300})
    torch.testing.assert_close(grid().W, whole.W, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def pentagons():
    effort = Effort(restarts=12, samples=2048, evaluation_samples=2048, steps=120)
    ones = torch.ones(1, 5, dtype=torch.float64)
    return train_grid([0.3, 0.05], ones, 2, "relu", effort=effort, seeds=[7], device="cpu")


def test_pentagon_is_found_and_swapping_densities_breaks_it(pentagons):
    shares = checked_dimensionality(pentagons.best().W)[0, :, 0]
    digon, pentagon = worst_gap(shares, [0.5] * 4 + [0.0]), worst_gap(shares, [0.4] * 5)
    assert float(digon[0]) < 0.03
    assert float(pentagon[1]) < 0.03
    assert float(digon[1]) > 0.3
    assert float(pentagon[0]) > 0.3


def test_the_papers_optimiser_agrees(pentagons):
    """AdamW on a stream of fresh independent points, as in the authors' notebook (fewer steps), ends alike."""
    density, generator = 0.05, torch.Generator().manual_seed(3)

    def batch(size):
        active = torch.rand(5, size, generator=generator) < density
        return torch.rand(5, size, generator=generator) * active

    W, b = initial(8, 2, 5, generator)
    parameters = [one.float().requires_grad_() for one in (W, b)]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1500)
    for _ in range(1500):
        x = batch(512)
        output = (torch.einsum("imf,img,gs->ifs", parameters[0], parameters[0], x) + parameters[1][..., None]).relu()
        optimiser.zero_grad()
        ((output - x) ** 2).sum((0, 1)).mean().backward()
        optimiser.step()
        schedule.step()
    W, b = (one.detach().double() for one in parameters)
    streamed = float(evaluate(W, b, sample(density, 5, 16384, 99), torch.ones(8, 5).double(), "relu").loss.min())
    best = pentagons.best()
    ours = evaluate(best.W[0, 1], best.b[0, 1], sample(density, 5, 16384, 99), torch.ones(1, 5).double(), "relu").loss
    assert float(ours) == pytest.approx(streamed, rel=0.03)


def test_descent_never_rises_and_ends_flat():
    data, importance = sample(0.3, 5, 256, 0), torch.ones(20, 5, dtype=torch.float64)
    W, b = random_models(20, 2, 5, 0)
    last = evaluate(W, b, data, importance, "relu").loss
    for steps in (1, 5, 25, 300):
        now = minimise(W, b, data, importance, "relu", steps=steps)
        assert bool((now.loss <= last + 1e-12).all())
        last = now.loss
    assert float(now.gradient.median()) < 1e-6


def test_finished_instances_are_put_aside_and_do_not_disturb_the_others():
    """Two data sets, one instance of each starts at its optimum; all end as they do alone."""
    data = stack([sample(0.3, 4, 128, 1), sample(0.1, 4, 128, 2)])
    W, b = random_models(6, 2, 4, 3)
    importance = torch.ones(6, 4, dtype=torch.float64)
    solved = minimise(W, b, data, importance, "relu", steps=150)
    W[1], b[1], W[3], b[3] = solved.W[1], solved.b[1], solved.W[3], solved.b[3]
    together = minimise(W, b, data, importance, "relu", steps=150)
    for k in range(6):
        own = Data(data.x[k // 3, None], data.weight[k // 3, None])
        alone = minimise(W[k, None], b[k, None], own, importance[k, None], "relu", steps=150)
        assert float(together.loss[k]) == pytest.approx(float(alone.loss[0]), rel=1e-6)
    torch.testing.assert_close(together.W[[1, 3]], W[[1, 3]], rtol=0, atol=1e-4)  # they had nowhere to go
    torch.testing.assert_close(evaluate(together.W, together.b, data, importance, "relu").loss, together.loss)


def test_unfinished_instances_stay_with_their_data_set():
    done = torch.tensor([True, False, True, True, False, False, True, True])
    assert _unfinished(done, 2).tolist() == [0, 1, 4, 5]
    assert _unfinished(torch.ones(8, dtype=torch.bool), 2).tolist() == []


def test_columns_that_keep_their_directions_end_where_lengths_and_biases_gain_nothing_more():
    """The gradient of a literal loss."""
    data, importance = sample(0.1, 5, 512, 0), torch.ones(3, 5, dtype=torch.float64)
    W, b = random_models(3, 2, 5, 1)
    start = W.norm(dim=1, keepdim=True)
    along = W / start
    found = minimise(start, b, data, importance, "relu", steps=300, directions=along)
    lengths, biases = found.W.clone().requires_grad_(), found.b.clone().requires_grad_()
    output = (torch.einsum("imf,img,gs->ifs", along * lengths, along * lengths, data.x[0]) + biases[..., None]).relu()
    loss = ((output - data.x[0]) ** 2).sum(1) @ data.weight[0]
    torch.testing.assert_close(loss.detach(), found.loss)
    first = torch.autograd.grad(loss.sum(), [lengths, biases])
    assert max(float(one.abs().max()) for one in first) < 1e-5
    assert bool((found.loss < evaluate(W, b, data, importance, "relu").loss).all())
    free = minimise(along * found.W, found.b, data, importance, "relu", steps=300).loss
    assert bool((free < 0.95 * found.loss).all()), "directions would have gained"


def test_a_quadratic_is_solved_in_a_few_steps():
    """The linear model with W = 0 is quadratic in b: the optimum is the mean."""
    data = sample(0.5, 3, 128, 0)
    zero = torch.zeros(1, 2, 3, dtype=torch.float64)
    importance = torch.tensor([[1.0, 0.5, 2.0]], dtype=torch.float64)
    found = minimise(zero, torch.zeros(1, 3, dtype=torch.float64), data, importance, "linear", steps=40)
    torch.testing.assert_close(found.b, torch.einsum("dfs,ds->df", data.x, data.weight), rtol=1e-6, atol=1e-8)


def test_a_loss_that_is_not_finite_stops_training():
    data = Data(
        torch.full((1, 2, 3), float("nan"), dtype=torch.float64), torch.full((1, 3), 1 / 3, dtype=torch.float64)
    )
    W, b = random_models(1, 1, 2, 0)
    with pytest.raises(UserError, match="not finite at step"):
        minimise(W, b, data, torch.ones(1, 2, dtype=torch.float64), "relu", steps=3)


def test_grids_survive_the_disk(pentagons, tmp_path):
    save_grids(tmp_path / "models.safetensors", {"relu": pentagons, "linear": pentagons})
    for kept, found in zip(pentagons, load_grid(tmp_path / "models.safetensors", "linear"), strict=True):
        assert torch.equal(kept, found)
    with pytest.raises(UserError, match="make superposition"):
        load_grid(tmp_path / "nothing.safetensors", "relu")
    with pytest.raises(UserError, match="lacks"):
        load_grid(tmp_path / "models.safetensors", "absolute")
