"""Readings along training, and every step at toy size."""

import pandas as pd
import pytest
import torch

from common.core.figures import draw_figures
from common.core.files import read_yaml
from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from replications.grokking.circuit import final_snapshot
from replications.grokking.dictionary import DictionaryFiles, arc, by_sum, dictionary, in_plane
from replications.grokking.draw import PLANS
from replications.grokking.fourier import circle
from replications.grokking.measure import MeasureFiles, delays, first_learned, measure, moments
from replications.grokking.measure_decay import MeasureDecayFiles, decay_metrics, measure_decay
from replications.grokking.progress import DRAWS, along, compare, halved
from replications.grokking.settings import Arm, Arms, Measure, MeasureDecay, MeasureDictionary, Paces, TrainArm
from replications.grokking.task import all_pairs, task
from replications.grokking.train import TrainFiles, train
from replications.grokking.transformer import forward, initial, losses


def test_never_learned_counts_with_the_last_step():
    accuracy = torch.tensor([[0.0, 0.0], [1.0, 0.2], [0.5, 0.3]])
    assert first_learned(accuracy, torch.tensor([0, 2, 10]), 0.99).tolist() == [2.0, 10.0]


def test_a_network_that_never_answers_has_no_delay():
    steps, test = torch.tensor([0, 2, 10]), torch.tensor([[0.0, 0.0], [0.2, 0.2], [1.0, 0.9]])
    train = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert delays(train, test, steps, 0.99).tolist() == [5.0, 0.0]
    assert delays(train, test, steps, 0.99, control=True).tolist() == [5.0, 5.0], "what hurts the claim, at the least"
    assert delays(0.5 * train, test, steps, 0.99, control=True).tolist() == [0.0, 0.0], "nothing is known"


def test_moments_are_the_first_memory_and_the_last_ignorance():
    known, answered = torch.tensor([0.1, 0.9, 1.0, 1.0, 1.0]), torch.tensor([0.1, 0.1, 0.2, 0.3, 0.9])
    assert moments(known, answered, 0.99) == (2, 3)
    assert moments(known, torch.ones(5), 0.99) == (2, 2)
    assert moments(known, torch.zeros(5), 0.99) == (2, 4)


def test_the_final_network_is_that_of_least_training_loss_in_the_last_quarter():
    loss = torch.tensor([[0.0], [9.0], [9.0], [9.0], [9.0], [9.0], [9.0], [3.0], [1.0], [2.0]])
    found = {"steps": torch.arange(10), "snapshots": torch.tensor([0, 1, 2, 4, 5, 7, 8, 9]), "loss_train": loss}
    assert final_snapshot(found, 0) == 6, "a place among the snapshots"


def test_a_loss_halves_after_its_largest_value():
    steps = [0, 10, 20, 30, 40]
    loss = torch.tensor([9.0, 2.0, 4.0, 3.0, 1.0])
    assert halved(loss, steps, 1) == pytest.approx(35)
    assert halved(loss, steps, 0) == pytest.approx(10 * 4.5 / 7)
    assert halved(torch.full((5,), 3.0), steps, 0) == 40, "a loss that never halves counts with the last step"


def test_all_frequencies_are_the_mean_over_pairs_of_equal_sum():
    one, steps, sizes = task(11, 0.4, 0), [0, 10, 20, 30], torch.tensor([2.0, 1.6, 1.2, 0.8])
    own = {name: value * sizes.view(-1, *[1] * value.ndim) for name, value in initial(11, 8, 2, 0).items()}
    found, _ = compare(own, own, one, [1], [2], steps, (0, 2))
    sums, whole, alone = all_pairs(11).sum(-1) % 11, [], []
    for size in sizes:
        logits = forward({name: value * size for name, value in initial(11, 8, 2, 0).items()}, one.pairs).logits
        mean = torch.stack([logits[sums == total].double().mean(0) for total in sums])
        for kept, read in ((whole, logits), (alone, mean)):
            kept.append(losses(read[~one.trained], one.answers[~one.trained]).mean())
    expected = halved(torch.stack(whole), steps, 0) / halved(torch.stack(alone), steps, 0)
    assert found["restricted_lead"]["all_frequencies"] == pytest.approx(expected)
    assert found["restricted_lead"]["all_frequencies"] != pytest.approx(found["restricted_lead"]["key"])


def test_progress_measures_of_all_frequencies_and_of_none():
    one, own = task(7, 0.5, 0), {name: value[None] for name, value in initial(7, 8, 2, 0).items()}
    found = along(own, one, [[], [1, 2, 3]])
    logits = forward({name: value[0] for name, value in own.items()}, one.pairs).logits
    loss = losses(logits, one.answers)
    assert float(found.train) == pytest.approx(float(loss[one.trained].mean()))
    assert float(found.test) == pytest.approx(float(loss[~one.trained].mean()))
    assert float(found.excluded[0, 0]) == pytest.approx(float(found.train)), "nothing is taken away"
    assert found.elsewhere[0].tolist() == pytest.approx([float(found.train)] * DRAWS), "nor from other pairs"
    sums = torch.stack([logits[one.answers == c].double().mean(0) for c in range(7)])[one.answers]
    assert float(found.restricted[0, 1]) == pytest.approx(float(losses(sums, one.answers)[~one.trained].mean()))


def test_latents_on_an_arc_of_a_planted_circle():
    prime = 13
    turn = 2 * torch.pi / prime * 3 * (all_pairs(prime).sum(-1) % prime)
    stream = torch.stack([torch.cos(turn), torch.sin(turn), torch.ones(prime**2)], 1)
    plane = circle(by_sum(stream, prime), 3)
    assert in_plane(torch.eye(3), plane).tolist() == pytest.approx([1, 1, 0], abs=1e-6)
    half = torch.stack([turn.cos().relu(), torch.ones(prime**2)], 1)
    assert arc(half, prime).tolist() == pytest.approx([7 / 13, 1])


PACES = {
    "whole": (2.0, 0.01), "half": (1.0, 0.01), "quarter": (0.5, 0.01), "eighth": (0.25, 0.01), "none": (0.0, 0.01),
    "slow": (2.0, 0.005),
}  # fmt: skip


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (lambda decay, rate: 4 / (decay * rate), {"exponent": -1, "rate": 0, "exponent_rate": -1}),
        (lambda decay, rate: 4 / decay, {"exponent": -1, "rate": 1, "exponent_rate": 0}),
        (lambda decay, rate: 4 / rate, {"exponent": 0, "rate": -1, "exponent_rate": -1}),
    ],
)
def test_exponents_of_planted_laws(law, expected):
    rows = [
        {"arm": arm, "seed": seed, "weight_decay": decay, "learning_rate": rate, "memorised": 60.0, "steps": 9000}
        | {
            "answered": float(arm not in ("none", "slow")),
            "delay": (1 + seed) * (law(decay, rate) if decay else 8000.0),
        }
        for seed in (1, 0)
        for arm, (decay, rate) in PACES.items()
    ]
    table = pd.DataFrame(rows)
    metrics = decay_metrics(table.assign(generalised=table["delay"] + 60))
    found = {name: metric.value for name, metric in metrics.items()}
    found |= {control.name: control.value for control in metrics["exponent"].controls}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["memorising"] == pytest.approx(0, abs=1e-9)
    assert found["answered_without"] == 0
    assert found["length_without"] == pytest.approx(9000 / (60 + 2 * law(0.25, 0.01)))
    assert found["answering"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("arm", "pace", "message"),
    [
        ("half", {"learning_rate": 0.02}, "give them one rate"),
        ("none", {"weight_decay": 0.1}, "is 0 in none"),
        ("eighth", {"weight_decay": 0.5}, "falls from whole"),
        ("slow", {"weight_decay": 3.0}, "same product"),
    ],
)
def test_a_sweep_that_compares_nothing_is_refused(arm, pace, message):
    arms = {name: {"weight_decay": decay, "learning_rate": rate, "steps": 50} for name, (decay, rate) in PACES.items()}
    assert Paces(**arms).slow.steps == 50
    with pytest.raises(ValueError, match=message):
        Paces(**arms | {arm: arms[arm] | pace})


@pytest.mark.usefixtures("unsaved_figures")
def test_the_steps_run_and_every_claim_finds_its_metric_and_controls(root, tmp_path):
    settings = load_replication("grokking", "smoke")
    both = {"training": settings.training, "reading": settings.reading}
    parts = {part: tmp_path / part for part in ("delay", "progress", "circuit", "dictionary", "decay")}
    models = {arm: tmp_path / f"{arm}.safetensors" for arm in Arms.model_fields}
    for arm, path in models.items():
        one = TrainArm(arm=getattr(settings.arms, arm), training=settings.training)
        train(TrainFiles(models=path), one, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))
    tables = {"curves": "delay", "measures": "progress"} | dict.fromkeys(
        ("frequencies", "neurons", "spectra"), "circuit"
    )
    measure(
        MeasureFiles(
            **models,
            **{part: parts[part] / "metrics.json" for part in ("delay", "progress", "circuit")},
            **{name: parts[part] / f"{name}.csv" for name, part in tables.items()},
        ),
        Measure(**both, arms=settings.arms),
    )
    dictionary(
        DictionaryFiles(
            models=models["grokking"], metrics=parts["dictionary"] / "metrics.json",
            **{name: parts["dictionary"] / f"{name}.csv" for name in ("circles", "latents")},
        ),
        MeasureDictionary(**both, dictionary=settings.dictionary),
    )  # fmt: skip
    sweep, paces = settings.decay_sweep, {}
    for arm in Paces.model_fields:
        pace, paces[arm] = getattr(sweep.arms, arm), tmp_path / f"pace_{arm}.safetensors"
        shape = sweep.training.model_copy(update={"learning_rate": pace.learning_rate})
        own = Arm(
            fraction=sweep.fraction, weight_decay=pace.weight_decay, random_answers=False, steps=pace.steps,
            snapshot_every=pace.steps,
        )  # fmt: skip
        train(
            TrainFiles(models=paces[arm]),
            TrainArm(arm=own, training=shape),
            RunInfo(scale="smoke", seeds=[0, 1], device="cpu"),
        )
    measure_decay(
        MeasureDecayFiles(**paces, metrics=parts["decay"] / "metrics.json", times=parts["decay"] / "times.csv"),
        MeasureDecay(decay_sweep=sweep, reading=settings.reading),
    )
    for claim in read_yaml(root / "replications/grokking/claims.yaml")["claims"]:
        found = read_metrics(parts[claim["part"]] / "metrics.json")[claim["metric"]]
        assert [control.name for control in found.controls] == claim.get("controls", []), claim["id"]
    assert set(pd.read_csv(parts["delay"] / "curves.csv")["arm"]) == {
        "grokking", "large_share", "no_decay", "random_answers"
    }  # fmt: skip
    captions = [root / f"replications/grokking/captions/{name.split('/')[1]}.rst" for name in PLANS]
    figures = [tmp_path / name.replace("/", "/figures/") for name in PLANS]
    draw_figures(PLANS, captions, [path.with_suffix(".svg") for path in figures])
    assert all(path.with_suffix(".svg").exists() for path in figures)
