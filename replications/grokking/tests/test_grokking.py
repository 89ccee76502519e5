"""Grokking: the network against a literal one, and the readings against the closed-form solution."""

import math

import pytest
import torch

from common.core.errors import UserError
from common.core.settings import load_replication
from replications.grokking.fourier import live_neurons, phase_error, spectrum
from replications.grokking.measure import MeasureFiles, delays, first_learned, measure
from replications.grokking.model import Task, accuracies, closed_form, initial, loss, outputs, task
from replications.grokking.settings import Measure, Training

PRIME, WIDTH = 11, 6


def both(*tasks):
    return Task(*(torch.cat(parts) for parts in zip(*tasks, strict=True)))


def test_outputs_and_loss_are_the_literal_ones():
    weights = {name: torch.cat([initial(PRIME, WIDTH, seed)[name] for seed in (0, 1)]) for name in "UVW"}
    tasks = both(task(PRIME, 0.4, 0, False), task(PRIME, 0.4, 1, True))
    found, losses = outputs(weights), loss(weights, tasks)
    for i in range(2):
        U, V, W = (weights[name][i] for name in "UVW")
        errors = []
        for a in range(PRIME):
            for b in range(PRIME):
                f = sum((U[a, k] + V[b, k]) ** 2 * W[:, k] for k in range(WIDTH))
                assert torch.allclose(found[i, a * PRIME + b], f, atol=1e-6)
                wanted = torch.zeros(PRIME)
                wanted[tasks.answers[i, a * PRIME + b]] = 1
                if tasks.trained[i, a * PRIME + b]:
                    errors.append(((f - wanted) ** 2).mean())
        assert float(losses[i]) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)


def test_a_task_is_addition_on_nested_training_sets():
    small, large, noise = task(PRIME, 0.3, 5, False), task(PRIME, 0.6, 5, False), task(PRIME, 0.3, 5, True)
    assert small.answers[0, 7 * PRIME + 9] == (7 + 9) % PRIME
    assert int(small.trained.sum()) == round(0.3 * PRIME**2)
    assert bool((large.trained | ~small.trained).all())
    assert float((noise.answers == small.answers).float().mean()) < 0.3


def test_the_closed_form_answers_every_pair_and_reads_as_pure_waves():
    weights = closed_form(23, 1500, seed=0)
    everything = task(23, 0.5, 0, False)
    assert {name: float(value) for name, value in accuracies(weights, everything).items()} == {"train": 1, "test": 1}
    found = spectrum(**weights)
    assert float(found.purity.min()) == pytest.approx(1, abs=1e-6)
    assert float(phase_error(found.phases).max()) < 1e-5
    assert bool(live_neurons(**weights, share=0.5).all())
    shifted = {**weights, "W": weights["W"].roll(1, dims=2)}  # output waves handed to the neighbour
    assert float(spectrum(**shifted).purity.median()) < 0.1
    assert float(accuracies(shifted, everything)["test"]) < 0.5


def test_phase_errors_of_unrelated_phases_are_even():
    phases = torch.empty(3, 1, 20_000).uniform_(-math.pi, math.pi, generator=torch.Generator().manual_seed(0))
    errors = phase_error(phases.double())
    assert 0 <= float(errors.min()) <= float(errors.max()) <= math.pi
    assert float(errors.median()) == pytest.approx(math.pi / 2, abs=0.05)


def test_random_weights_are_not_pure():
    assert float(spectrum(**initial(59, 100, 0)).purity.max()) < 0.5


def test_faded_neurons_do_not_count():
    weights = closed_form(11, 5, seed=0)
    weights["W"][..., 2] *= 1e-3
    assert live_neurons(**weights, share=0.1).tolist() == [[True, True, False, True, True]]


def test_never_learned_counts_with_the_last_step():
    accuracy = torch.tensor([[0.0, 0.0], [1.0, 0.2], [0.5, 0.3]])
    assert first_learned(accuracy, torch.tensor([0, 2, 10]), 0.99).tolist() == [2.0, 10.0]


def test_a_network_that_never_answers_has_no_delay():
    steps, test = torch.tensor([0, 2, 10]), torch.tensor([[0.0, 0.0], [0.2, 0.2], [1.0, 0.9]])
    train = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert delays(train, test, steps, 0.99).tolist() == [5.0, 0.0]


def test_training_needs_a_prime():
    with pytest.raises(ValueError, match="51 is not prime"):
        Training(
            prime=51, width=4, steps=10, learning_rate=0.1, weight_decay=0.0, fractions=[0.3, 0.5], side_fraction=0.5
        )


def test_a_share_without_networks_is_named(tmp_path):
    from safetensors.torch import save_file

    one = {"steps": torch.tensor([0]), "train": torch.ones(1, 1), "test": torch.ones(1, 1)}
    labels = {"fraction": torch.tensor([0.5]), "random": torch.tensor([0]), "seed": torch.tensor([0])}
    save_file({f"{arm}.{k}": v.clone() for arm in ("decay", "free") for k, v in (one | labels).items()}, tmp_path / "m")
    settings = load_replication("grokking", "smoke")
    training, judging = settings.training, settings.judging.model_copy(update={"late_fraction": 0.3})
    outs = {name: tmp_path / name for name in ("delay", "features", "curves", "neurons")}
    with pytest.raises(UserError, match=r"share of 0\.3"):
        measure(MeasureFiles(models=tmp_path / "m", **outs), Measure(training=training, judging=judging))
