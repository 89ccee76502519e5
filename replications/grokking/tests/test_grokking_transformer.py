"""The one-layer transformer against a literal one, its readings against planted waves, and its steps at toy size."""

import math

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from common.core.figures import draw_figures
from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from replications.grokking.draw_transformer import PLANS
from replications.grokking.measure_transformer import MeasureFiles, measure_transformer, moments
from replications.grokking.model import task
from replications.grokking.progress import (
    cosine_shares,
    embedding_shares,
    excluded,
    key_frequencies,
    neuron_shares,
    others,
    overlap,
    restricted,
    strongest,
)
from replications.grokking.settings import MeasureTransformer, Transformer
from replications.grokking.train_transformer import TrainFiles, chosen, points, train_transformer
from replications.grokking.transformer import all_pairs, initial_transformer, logits, losses, planted

PRIME, KEYS = 13, [2, 5]


def literal(weights, a, b):
    """Logits of one pair from a transformer that computes every position and head."""
    stream = torch.stack([weights["W_E"][n] + weights["W_pos"][at] for at, n in enumerate((a, b, -1))])
    out = stream.clone()
    for head in range(len(weights["W_Q"])):
        q, k, v = (stream @ weights[f"W_{name}"][head] for name in "QKV")
        scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(torch.ones(3, 3).triu(1).bool(), float("-inf"))
        out = out + scores.softmax(-1) @ v @ weights["W_O"][head]
    out = out + torch.relu(out @ weights["W_in"]) @ weights["W_out"]
    return (out @ weights["W_U"])[-1]


def test_logits_are_those_of_the_literal_transformer():
    each = [initial_transformer(PRIME, 8, 2, seed) for seed in (0, 1)]
    weights = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    found = logits(weights, all_pairs(PRIME).expand(2, -1, -1))
    for instance, one in enumerate(each):
        for a, b in ((0, 0), (3, 7), (7, 3), (12, 12)):
            wanted = literal({name: value[0] for name, value in one.items()}, a, b)
            assert torch.allclose(found[instance, a * PRIME + b], wanted, atol=1e-5)


def test_training_sees_only_the_pairs_trained_on():
    one = task(PRIME, 0.4, 3, False)
    inputs, answers = chosen(one, PRIME)
    assert inputs.shape == (1, round(0.4 * PRIME**2), 2)
    assert torch.equal(inputs.sum(-1) % PRIME, answers)
    assert set(map(tuple, inputs[0].tolist())) == {divmod(int(at), PRIME) for at in one.trained[0].nonzero()[:, 0]}


def test_planted_waves_are_read_back():
    found = planted(PRIME, KEYS)
    shares = cosine_shares(found)
    assert torch.allclose(shares[torch.tensor(KEYS) - 1], torch.tensor(0.5, dtype=torch.float64))
    assert float(shares.sum()) == pytest.approx(1)
    assert key_frequencies(shares, 0.05) == strongest(shares, 2) == KEYS
    answers = task(PRIME, 0.5, 0, False).answers
    assert torch.equal(found.argmax(-1), answers[0])
    loss = {name: float(losses(part(30 * found, KEYS)[None], answers).mean()) for name, part in
            (("restricted", restricted), ("excluded", excluded))}  # fmt: skip
    assert loss["restricted"] < 1e-3
    assert loss["excluded"] == pytest.approx(math.log(PRIME), abs=1e-6)
    for other in others(PRIME, KEYS, 5):
        assert not set(other) & set(KEYS)
        assert torch.allclose(excluded(found, other), found.double(), atol=1e-6)
        assert torch.allclose(restricted(found, other), found.double().mean(0).expand_as(found), atol=1e-6)


def test_shares_are_the_projections_on_literal_waves():
    found = torch.randn(PRIME**2, PRIME, generator=torch.Generator().manual_seed(0)).double()
    centred = found - found.mean(-1, keepdim=True)
    centred = centred - centred.mean(0)
    for k, share in enumerate(cosine_shares(found).tolist(), start=1):
        wave = planted(PRIME, [k]).double()
        assert share == pytest.approx(float((wave * centred).sum() ** 2 / wave.square().sum() / centred.square().sum()))


def test_a_wave_in_embedding_or_neuron_is_one_frequency():
    angle = 2 * math.pi / PRIME * torch.arange(PRIME)
    assert float(embedding_shares(torch.stack([torch.cos(3 * angle), torch.sin(3 * angle)], 1))[2]) == pytest.approx(1)
    a, b = (angle[all_pairs(PRIME)[:, at]] for at in (0, 1))
    pure = torch.cos(4 * a) * torch.sin(4 * b) + torch.cos(4 * a + 1) + 2
    mixed = torch.cos(4 * a) + torch.cos(3 * b)
    found = neuron_shares(torch.stack([pure, mixed, torch.zeros_like(a)], 1))
    assert found.tolist() == pytest.approx([1, 0.5, 0], abs=1e-6)


def test_sets_of_frequencies():
    assert overlap([1, 2], [2, 3]) == pytest.approx(1 / 3)
    assert others(5, [1, 2], 1) == [[]]
    assert key_frequencies(torch.zeros(3).double(), 0.1) == [1]


def test_moments_are_the_first_memory_and_the_last_ignorance():
    train, test = torch.tensor([0.1, 0.9, 1.0, 1.0, 1.0]), torch.tensor([0.1, 0.1, 0.2, 0.3, 0.9])
    assert moments(train, test, 0.99) == (2, 3)
    assert moments(train, torch.ones(5), 0.99) == (2, 2)
    assert moments(train, torch.zeros(5), 0.99) == (2, 4)


def test_points_are_dense_while_the_pairs_are_memorised():
    assert {0, 10, 390, 400, 500, 1000} <= set(points(1000, 100))
    assert 410 not in points(1000, 100)


def test_the_steps_run_and_every_claim_finds_its_metrics(root, tmp_path):
    settings = load_replication("grokking", "smoke")
    both = MeasureTransformer(judging=settings.judging, transformer=settings.transformer)
    models, metrics = tmp_path / "models", tmp_path / "metrics.json"
    train_transformer(
        TrainFiles(models=models), settings.transformer, RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
    )
    part = tmp_path / "transformer"
    tables = {name: part / f"{name}.csv" for name in ("curves", "progress", "frequencies")}
    measure_transformer(MeasureFiles(models=models, metrics=metrics, **tables), both)
    found = read_metrics(metrics)
    assert {len(metric.controls) for name, metric in found.items() if name != "key_frequencies"} == {1}
    assert set(pd.read_csv(tables["curves"])["arm"]) == {"late", "prompt", "free"}
    captions = [root / "replications" / "grokking" / "captions" / f"{name}.rst" for name in ("losses", "basis")]
    figures = [part / "figures" / f"{name}.svg" for name in ("losses", "basis")]
    draw_figures(PLANS, captions, figures)
    assert all(path.stat().st_size > 1000 for path in figures)


@pytest.mark.parametrize(
    ("change", "message"), [({"n_heads": 3}, "do not divide"), ({"snapshot_every": 15}, "multiple")]
)
def test_settings_that_do_not_fit_are_refused(change, message):
    good = load_replication("grokking", "smoke").transformer.model_dump()
    with pytest.raises(ValidationError, match=message):
        Transformer(**good | change)


def test_laptop_leaves_the_transformer_out():
    assert load_replication("grokking", "laptop").transformer is None
    assert load_replication("grokking", "gpu").transformer.prime == 113
