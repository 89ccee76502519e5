"""Trainer: batched members equal single ones, exact resume, NaN stop, decoder norm, resampling, schedule."""

import pytest
import torch
from safetensors.torch import save_file

from common.core.errors import UserError
from common.saes import optimiser, trainer
from common.saes.architectures.base import Batch, Losses, geometric_median
from common.saes.recipe import Recipe, Training, k_now, learning_rate, price_now, resampling_steps
from common.saes.resampling import resample, restart_silent
from common.saes.trainer import train

NAMES = (
    "batch_topk", "topk", "matryoshka", "matching_pursuit", "jumprelu", "gated", "relu_april", "relu_bricken",
    "transcoder", "skip_transcoder", "cross_layer",
)  # fmt: skip
SOURCES = {"transcoder": "pairs", "skip_transcoder": "pairs", "cross_layer": "layers"}
SETTINGS = Training(
    steps=12, batch=64, learning_rate=0.01, warmup=2, dead_after=128, trace_every=3, checkpoint_every=5, resample_pool=3
)


MIX = torch.randn(10, 10, generator=torch.Generator().manual_seed(99)) / 10**0.5


def stream(step, source):
    """Inputs with 10 dimensions. Targets are the same; of `pairs` six functions of them, of `layers` ten."""
    x = torch.randn(1, 64, 10, generator=torch.Generator().manual_seed(step)) / 10**0.5
    y = {"pairs": (x @ MIX[:, :6]).relu() + 0.1, "layers": (x @ MIX).relu()}.get(source, x)
    return Batch(x, y)


def recipe(name, seed=0):
    layers = 2 if name == "cross_layer" else 1
    return Recipe(
        architecture=name, d_sae=24, sparsity=3.0, seed=seed, layers=layers, source=SOURCES.get(name, "activations"),
    )  # fmt: skip


def sweep(names=NAMES, seeds=(0, 1)):
    return [recipe(name, seed) for name in names for seed in seeds]


def test_members_do_not_see_each_other(tmp_path):
    together = train(sweep(), stream, SETTINGS, tmp_path / "a")
    for own, one in zip(sweep(), together, strict=True):
        [alone] = train([own], stream, SETTINGS, tmp_path / "b")
        assert one.recipe == own
        for key, value in alone.weights.items():
            assert torch.allclose(one.weights[key], value, rtol=1e-3, atol=1e-5), (own.architecture, key)
    assert not list(tmp_path.iterdir())  # finished runs leave no checkpoint


def test_what_a_step_returns_holds_no_graph(tmp_path, monkeypatch):
    """Graphs of all groups, and of the step before, would otherwise be kept in memory."""
    kept, step = [], trainer._step
    monkeypatch.setattr(trainer, "_step", lambda *given: kept.append(step(*given)) or kept[-1])
    train(sweep(), stream, SETTINGS.model_copy(update={"steps": 2}), tmp_path / "a")
    assert len(kept) == 2 * len(NAMES)
    tensors = [one for losses in kept for one in losses if one is not None]
    assert not any(one.requires_grad for one in tensors)


def test_groups_of_one_source_share_the_batch_of_a_step(tmp_path):
    asked = []

    def counted(step, source):
        asked.append((step, source))
        return stream(step, source)

    recipes = [*sweep(), Recipe(architecture="topk", d_sae=24, sparsity=3.0, seed=0, source="late")]
    train(recipes, counted, SETTINGS, tmp_path / "a")
    start = [(0, "activations"), (0, "late"), (0, "layers"), (0, "pairs")]
    expected = list(start)
    for step in range(SETTINGS.steps):
        expected += [(step, name) for _, name in start]
        if step + 1 in resampling_steps(SETTINGS):  # once for `relu_bricken`, its latest batches again
            expected += [(past, "activations") for past in range(max(0, step - 2), step + 1)]
    assert asked == expected


def test_transcoders_learn_their_targets_and_export_what_they_learned(tmp_path):
    """Of the variance of the targets, the trace and the exported one leave the same share; before, it is all."""
    longer = SETTINGS.model_copy(update={"steps": 200})
    x, y = stream(10**6, "pairs")
    for one in train(sweep(("transcoder", "skip_transcoder"), (0,)), stream, longer, tmp_path / "a"):
        assert one.traces["fvu"][0] == pytest.approx(1, abs=0.03)  # W_dec and W_skip are 0, b_dec the mean
        assert one.traces["l0"][-1] == pytest.approx(3, abs=0.05)
        assert one.sae.W_dec.shape == (24, 6)
        found = one.sae.reconstruct(x[0])
        left = (y[0] - found).square().sum() / (y[0] - y[0].mean(0)).square().sum()
        assert left == pytest.approx(float(one.traces["fvu"][-3:].mean()), abs=0.02)
        assert left < 0.1
        assert (one.sae.W_skip is not None) == (one.recipe.architecture == "skip_transcoder")


def test_a_cross_layer_transcoder_learns_and_never_writes_backwards(tmp_path):
    longer = SETTINGS.model_copy(update={"steps": 200})
    [one] = train(sweep(("cross_layer",), (0,)), stream, longer, tmp_path / "a")
    assert one.traces["fvu"][0] == pytest.approx(1, abs=0.03)
    assert one.traces["fvu"][-1] < 0.5
    assert one.traces["l0"][-1] == pytest.approx(6, abs=0.1)  # k in each of two layers
    latents = one.weights["W_dec"].unflatten(0, (2, 24))
    assert latents[1, :, :5].abs().max() == 0
    assert min(latents[0, :, :5].abs().max(), latents[0, :, 5:].abs().max(), latents[1, :, 5:].abs().max()) > 0.1


class KilledError(Exception):
    pass


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    whole = train(sweep(), stream, SETTINGS, tmp_path / "whole")

    def dying(step, source):
        if step == 8:
            raise KilledError
        return stream(step, source)

    with pytest.raises(KilledError):
        train(sweep(), dying, SETTINGS, tmp_path / "c")
    assert (tmp_path / "c").exists()
    resumed = train(sweep(), stream, SETTINGS, tmp_path / "c")
    for one, other in zip(whole, resumed, strict=True):
        for mine, its in (
            (one.weights, other.weights),
            (vars(one.progress), vars(other.progress)),
            (one.traces, other.traces),
        ):
            assert mine.keys() == its.keys()
            assert all(torch.equal(mine[key], its[key]) for key in mine), one.recipe.architecture


def test_a_checkpoint_of_other_data_or_a_damaged_one_is_left_alone(tmp_path, capsys):
    names = ("topk",)

    def dying(step, source):
        if step == 8:
            raise KilledError
        return stream(step, source)

    with pytest.raises(KilledError):
        train(sweep(names), dying, SETTINGS, tmp_path / "c", data="one")
    fresh = train(sweep(names), stream, SETTINGS, tmp_path / "c", data="two")
    assert "belongs to another run" in capsys.readouterr().out
    (tmp_path / "c").write_bytes(b"no safetensors")
    again = train(sweep(names), stream, SETTINGS, tmp_path / "c", data="two")
    assert "cannot be read" in capsys.readouterr().out
    assert torch.equal(fresh[0].weights["W_dec"], again[0].weights["W_dec"])


def test_unit_norm_architectures_keep_decoder_rows_on_the_sphere(tmp_path, monkeypatch):
    def norms(found):
        return torch.stack([one.weights["W_dec"].norm(dim=1) for one in found if one.recipe.architecture == "topk"])

    found = train(sweep(), stream, SETTINGS, tmp_path / "a")
    assert (norms(found) - 1).abs().max() < 1e-5
    april = next(one for one in found if one.recipe.architecture == "relu_april")
    assert (april.weights["W_dec"].norm(dim=1) - 1).abs().min() > 1e-3
    monkeypatch.setattr(trainer, "renormalise", lambda rows: None)  # orthogonal steps lengthen rows
    assert (norms(train(sweep(("topk",)), stream, SETTINGS, tmp_path / "b")) - 1).max() > 1e-4


def test_a_step_is_that_of_adam_on_the_sphere():
    generator = torch.Generator().manual_seed(0)
    start, gradient, first, second = (torch.randn(3, 50, 7, generator=generator) for _ in range(4))
    start, second = start / start.norm(dim=2, keepdim=True), second.square()
    weight, own, moments = start.clone(), gradient.clone(), (first.clone(), second.clone())
    optimiser.project(own, weight)
    assert (own * start).sum(2).abs().max() < 1e-6
    assert torch.allclose(gradient - own, (gradient * start).sum(2, keepdim=True) * start, atol=1e-6)
    transposed = own.transpose(1, 2).contiguous().transpose(1, 2)  # as the gradient of a matrix product may be
    optimiser.adam([weight], [transposed], [moments[0]], [moments[1]], 0.9, 0.01, 3)
    optimiser.renormalise(weight)
    third = [0.9 * first + 0.1 * own, 0.999 * second + 0.001 * own**2]  # Kingma and Ba 2015, algorithm 1
    literal = start - 0.01 * third[0] / (1 - 0.9**3) / ((third[1] / (1 - 0.999**3)).sqrt() + 1e-8)
    assert torch.allclose(weight, literal / literal.norm(dim=2, keepdim=True), atol=1e-6)
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in zip(moments, third, strict=True))


def literal_adam(weights, gradients, first, second, beta1, rate, count):
    for weight, gradient, m, v in zip(weights, gradients, first, second, strict=True):
        m.copy_(beta1 * m + (1 - beta1) * gradient)
        v.copy_(0.999 * v + 0.001 * gradient**2)
        weight -= rate * (m / (1 - beta1**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)


def test_every_architecture_learns_as_with_adam_written_out(tmp_path, monkeypatch):
    fused = train(sweep(), stream, SETTINGS, tmp_path / "a")
    monkeypatch.setattr(trainer, "adam", literal_adam)
    for one, other in zip(fused, train(sweep(), stream, SETTINGS, tmp_path / "b"), strict=True):
        for name in one.weights:
            assert torch.allclose(one.weights[name], other.weights[name], atol=1e-4), (one.recipe.architecture, name)


def test_activations_of_another_shape_stop_the_run(tmp_path):
    def mixed(step, source):
        batch = stream(step, source)
        return batch if step < 3 else Batch(batch.x[..., :9], batch.y[..., :9])

    with pytest.raises(UserError, match="step 3: these activations have 9 dimensions, those before had 10"):
        train(sweep(("topk",)), mixed, SETTINGS, tmp_path / "a")


def test_targets_of_another_shape_and_not_finite_ones_stop_the_run(tmp_path):
    def narrow(step, source):
        batch = stream(step, source)
        return batch if step < 3 else Batch(batch.x, batch.y[..., :5])

    def broken(step, source):
        batch = stream(step, source)
        batch.y[0, 3, 2] = float("inf") if step == 4 else batch.y[0, 3, 2]
        return batch

    for name in ("transcoder", "skip_transcoder", "cross_layer"):
        with pytest.raises(UserError, match=r"step 3: these targets have 5 dimensions, those before had (6|10)"):
            train(sweep((name,)), narrow, SETTINGS, tmp_path / "a")
        with pytest.raises(UserError, match="step 4: the targets hold NaN or infinity"):
            train(sweep((name,)), broken, SETTINGS, tmp_path / "b")


def test_a_checkpoint_outlives_an_export_that_fails(tmp_path, monkeypatch):
    def failing(*_given):
        raise KilledError

    monkeypatch.setattr(trainer.ARCHITECTURES["topk"], "export", failing)
    with pytest.raises(KilledError):
        train(sweep(("topk",)), stream, SETTINGS, tmp_path / "a")
    monkeypatch.undo()
    assert (tmp_path / "a").exists()
    train(sweep(("topk",)), stream, SETTINGS, tmp_path / "a", keep=True)
    assert (tmp_path / "a").exists()  # for the caller
    train(sweep(("topk",)), stream, SETTINGS, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_not_finite_activations_stop_the_run(tmp_path):
    def broken(step, source):
        batch = stream(step, source)
        if step == 4:
            batch.x[0, 3, 2] = float("nan")
        return batch

    with pytest.raises(UserError, match="step 4: the activations hold NaN"):
        train(sweep(("topk",)), broken, SETTINGS, tmp_path / "a")
    huge = SETTINGS.model_copy(update={"learning_rate": 0.99, "clip": 1e30})

    def growing(step, source):
        batch = stream(step, source)
        return Batch(batch.x, batch.y * 1e19**step)

    with pytest.raises(UserError, match=r"step \d+: loss or gradient of relu_april"):
        train(sweep(("relu_april",)), growing, huge, tmp_path / "b")


def test_controller_raises_the_price_while_too_many_latents_fire():
    recipes = [Recipe(architecture="gated", d_sae=24, sparsity=3.0, seed=seed) for seed in range(3)]
    progress = trainer._start(recipes, stream(0, ""), "cpu").progress
    progress.l0.copy_(torch.tensor([6.0, 3.0, 1.5]))
    losses = Losses(torch.zeros(3), torch.zeros(3), progress.l0.clone(), torch.ones(3, 24, dtype=torch.long))
    trainer._advance(progress, losses, recipes, SETTINGS, controlled=True)
    moved = (progress.coefficient / trainer.FIRST_COEFFICIENT).log()
    expected = SETTINGS.controller_gain * torch.tanh(torch.tensor([4.0, 0.0, -2.0]))
    assert torch.allclose(moved, expected, atol=1e-6)
    assert progress.silent.sum() == 0
    trainer._advance(
        progress, losses._replace(fired=torch.zeros(3, 24, dtype=torch.long)), recipes, SETTINGS, controlled=False
    )
    assert torch.allclose((progress.coefficient / trainer.FIRST_COEFFICIENT).log(), expected, atol=1e-6)
    assert progress.silent.min() == SETTINGS.batch


def test_schedule_and_annealing():
    settings = Training(
        steps=100, batch=8, learning_rate=0.1, warmup=9, dead_after=9, anneal_from=5.0, anneal_share=0.5
    )
    rates = [learning_rate(settings, step, 64) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9:80] == [0.1] * 71
    assert rates[90] == pytest.approx(0.05)
    by_rule = settings.model_copy(update={"learning_rate": None})
    assert [learning_rate(by_rule, 50, width) for width in (2**14, 2**12)] == pytest.approx([2e-4, 4e-4])
    assert price_now(settings, 0) == pytest.approx(1 / 6)  # 0.05 of the steps
    assert [price_now(settings, step) for step in (5, 99)] == [1, 1]
    assert resampling_steps(settings) == [12, 25, 37, 50]
    recipe = Recipe(architecture="topk", d_sae=100, sparsity=4.0)
    assert [k_now([recipe], settings, step)[0] for step in (0, 25, 50, 99)] == [20.0, 12.0, 4.0, 4.0]


def test_resampling_follows_brickens_recipe():
    generator = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(1, 6, 4, generator=generator), "b_enc": torch.ones(1, 6),
        "W_dec": torch.randn(1, 6, 4, generator=generator), "b_dec": torch.full((1, 4), 0.5),
    }  # fmt: skip
    before = {key: value.clone() for key, value in weights.items()}
    moments = [{key: torch.ones_like(value) for key, value in weights.items()} for _ in range(2)]
    silent = torch.tensor([[True, False, False, True, False, False]])
    x = torch.randn(1, 50, 4, generator=generator)
    errors = torch.zeros(1, 50)
    errors[0, 17] = 2.0  # the only input with a loss must be chosen, and once
    assert resample(weights, moments, silent, x, errors, [generator]) == 1
    direction = (x[0, 17] - 0.5) / (x[0, 17] - 0.5).norm()
    assert torch.allclose(weights["W_dec"][0, 0], direction)
    alive = before["W_enc"][0][~silent[0]].norm(dim=1).mean()
    assert torch.allclose(weights["W_enc"][0, 0], 0.2 * alive * direction)
    assert weights["b_enc"][0, [0, 3]].tolist() == [0, 1]
    assert all(one["W_enc"][0, 0].abs().max() == 0 and one["W_enc"][0, 1].min() == 1 for one in moments)
    assert torch.equal(weights["W_dec"][0, 1:], before["W_dec"][0, 1:])


def test_dead_latents_restart_at_inputs_of_their_own_from_all_latest_batches(tmp_path):
    """Thirty latents are dead; one batch has twelve inputs, the latest three together are enough for all."""
    dead = torch.zeros(2, 40, dtype=torch.bool)
    dead[:, :30] = True
    seeds = [0, 1]
    recipes = [Recipe(architecture="relu_bricken", d_sae=40, sparsity=3.0, seed=seed) for seed in seeds]
    settings = Training(steps=9, batch=12, learning_rate=0.01, warmup=0, dead_after=1, resample_pool=3)

    def batches(step, source):
        x = torch.randn(1, 12, 10, generator=torch.Generator().manual_seed(step))
        return Batch(x, x)

    group = trainer._start(recipes, batches(0, ""), "cpu")
    group.progress.silent.copy_(dead.long())
    restart_silent(group.weights, [group.first, group.second], group.progress, recipes, settings, batches, 6)
    pool = torch.cat([batches(step, "").x[0] for step in (4, 5, 6)])
    chosen = []
    for member in (0, 1):
        rows = pool - group.weights["b_dec"][member]
        cosine = group.weights["W_dec"][member][:30] @ (rows / rows.norm(dim=1, keepdim=True)).mT
        assert cosine.max(1).values.min() > 0.9999
        chosen.append(cosine.argmax(1))
        assert len(chosen[-1].unique()) == 30  # none twice, which one batch could not give
    assert not torch.equal(*chosen)  # a generator for each seed
    assert group.progress.silent.sum() == 0


@pytest.mark.parametrize("name", ["batch_topk", "topk", "matryoshka", "jumprelu", "gated", "relu_bricken"])
def test_the_first_reconstruction_explains_something(name, tmp_path):
    """Thirty-two unit rows a dimension reconstruct many times too long: without rescaling the first FVU is above 3."""
    wide = Recipe(architecture=name, d_sae=320, sparsity=6.0)
    [one] = train([wide], stream, SETTINGS.model_copy(update={"steps": 1, "trace_every": 1}), tmp_path / "a")
    assert one.traces["fvu"][0] < 1
    assert one.traces["l0"][0] == pytest.approx(160 if name in ("gated", "relu_bricken") else 6, rel=0.15)


def test_the_l0_aimed_at_is_not_overshot(tmp_path, monkeypatch):
    """The price of active latents first rises alone; then the coefficient follows L0, damped by how fast it falls."""
    settings = SETTINGS.model_copy(
        update={"steps": 400, "learning_rate": 0.003, "dead_after": 10**6, "trace_every": 1, "resample_at": []}
    )
    recipes = [Recipe(architecture="gated", d_sae=48, sparsity=4.0)]
    [damped] = train(recipes, stream, settings, tmp_path / "a")
    monkeypatch.setattr(trainer, "DAMPING", 0.0)
    [free] = train(recipes, stream, settings, tmp_path / "b")
    assert damped.traces["coefficient"][:20].unique().numel() == 1  # 0.05 of the steps
    lowest, undamped = (float(one.traces["l0"].unfold(0, 8, 1).mean(1).min()) / 4 for one in (damped, free))
    assert lowest > 0.5 > undamped
    assert damped.traces["l0"][-80:].mean() == pytest.approx(4, rel=0.2)


def test_geometric_median_ignores_an_outlier():
    x = torch.cat([torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 0.1, torch.full((1, 3), 1e4)])
    assert geometric_median(x).norm() < 0.1
    assert x.mean(0).norm() > 10


def test_a_foreign_file_as_checkpoint(tmp_path, capsys):
    [expected] = train(sweep(("topk",), seeds=(0,)), stream, SETTINGS, tmp_path / "none")
    capsys.readouterr()
    save_file({"x": torch.zeros(2)}, tmp_path / "c")
    [found] = train(sweep(("topk",), seeds=(0,)), stream, SETTINGS, tmp_path / "c")
    assert f"{tmp_path / 'c'} belongs to another run; starting afresh" in capsys.readouterr().out
    assert all(torch.equal(found.weights[name], value) for name, value in expected.weights.items())
    assert all(torch.equal(found.traces[name], value) for name, value in expected.traces.items())
    assert not (tmp_path / "c").exists()
