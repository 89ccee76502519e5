"""Cones of directions: a model in which refusal takes two features has a cone of two dimensions and none of three."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import nn

from replications.refusal_direction.chat import ablating, adding, last_logits, padded, refusal_metric
from replications.refusal_direction.cone import (
    Subject,
    coefficients,
    measured,
    objective,
    optimised,
    orthonormal,
    summary,
)
from replications.refusal_direction.part_figures import cone as draw_cones
from replications.refusal_direction.settings import ConeSettings

D = 8
SIZES = ConeSettings(dimensions=[2, 3], steps=150, batch=8, learning_rate=0.02, draws=64, prompts=8, rows=512)


class Head(nn.Module):
    """Refuses where coordinates 0 and 1 together exceed 1."""

    def forward(self, x):
        refusal = 12 * (x[..., 0] + x[..., 1] - 1).relu() - 1
        return torch.stack([refusal, *torch.zeros(4, *refusal.shape)], -1)


class Block(nn.Module):
    """Adds nothing."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Threshold(1e9, 0.0), nn.Threshold(1e9, 0.0)

    def forward(self, x):
        x = x + self.self_attn(x)
        return x + self.mlp(x)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        noise = 0.05 * torch.randn(20, D, generator=torch.Generator().manual_seed(0))
        noise[10:, :2] += 1  # tokens from 10 on are harmful
        self.embed_tokens, self.layers = nn.Embedding.from_pretrained(noise), nn.ModuleList([Block()])

    def forward(self, input_ids=None, inputs_embeds=None, **options):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        for block in self.layers:
            x = block(x)
        return SimpleNamespace(last_hidden_state=x)


@pytest.fixture(scope="module")
def planted():
    model = SimpleNamespace(model=Body(), lm_head=Head(), dtype=torch.float32, device=torch.device("cpu"))
    r = torch.zeros(D)
    r[:2] = 1
    return Subject(model, torch.tensor([0]), r, 0)


@pytest.fixture(scope="module")
def requests():
    return padded([[3, token] for token in range(10, 18)]), padded([[3, token] for token in range(8)])


def start(planted, k):
    axes = torch.randn(k - 1, D, generator=torch.Generator().manual_seed(1))
    return orthonormal(torch.cat([planted.r[None], axes]))


def test_the_planted_model_refuses_what_has_both_features(planted, requests):
    on, off = (refusal_metric(last_logits(planted.model, part), planted.tokens) for part in requests)
    assert on.min() > 5
    assert off.max() < 0


def test_gram_and_schmidt():
    rows = torch.randn(3, D, generator=torch.Generator().manual_seed(2))
    basis = orthonormal(rows)
    assert torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-6)
    assert float(basis[0] @ rows[0]) == pytest.approx(float(rows[0].norm()), rel=1e-5)
    second = rows[1] - (rows[1] @ basis[0]) * basis[0]
    assert torch.allclose(basis[1], second / second.norm(), atol=1e-5)


def test_coefficients_are_never_negative_and_of_length_one():
    found = coefficients(3, 500, torch.Generator().manual_seed(0))
    assert found.min() >= 0
    assert torch.allclose(found.norm(dim=1), torch.ones(500))
    assert torch.allclose(found.mean(0), torch.full((3,), 0.5), atol=0.05)  # of an octant's uniform points: 1/2


def test_the_objective_is_its_three_parts_request_by_request(planted, requests):
    on, off = (part[:2] for part in requests)
    base, directions = last_logits(planted.model, off), orthonormal(torch.randn(4, D))
    expected = []
    for row in range(2):
        one = slice(row, row + 1)
        with ablating(planted.model, directions[row]):
            harmful = refusal_metric(last_logits(planted.model, on[one]), planted.tokens)
        with ablating(planted.model, directions[2 + row]):
            after = last_logits(planted.model, off[one]).log_softmax(-1)
        with adding(planted.model, 0, planted.r.norm() * directions[2 + row]):
            added = refusal_metric(last_logits(planted.model, off[one]), planted.tokens)
        before = base[one].log_softmax(-1)
        kl = (before.exp() * (before - after)).sum()
        expected.append(float((1 + harmful.exp()).log() + 0.2 * (1 + (-added).exp()).log() + kl))
    found = objective(planted, on, off, base, directions)
    assert float(found) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_two_features_give_a_cone_of_two_dimensions_and_none_of_three(planted, requests):
    """x = (1, 1) loses (x . b)^2 of its sum 2 by ablating b, and must lose 1: orthonormal b share out 2 at most."""
    worst, mean, frames = {}, {}, []
    for k in SIZES.dimensions:
        chosen = torch.cat([torch.eye(k), coefficients(k, SIZES.draws, torch.Generator().manual_seed(5))])
        for kind, basis in {
            "optimised": optimised(planted, *requests, start(planted, k), SIZES, 0),
            "start": start(planted, k),
        }.items():
            assert torch.allclose(basis @ basis.T, torch.eye(k), atol=1e-5)
            found = measured(planted, *requests, chosen @ basis, SIZES.rows)
            worst[kind, k], mean[kind, k] = found["bypassed"].min(), found["bypassed"].mean()
            frames += [found.assign(seed=seed, dimensions=k, kind=kind) for seed in (0, 1)]
            if (kind, k) == ("optimised", 2):
                assert (basis @ planted.r).square().min() > 0.9
                assert found["induced"].mean() > 0.95
    assert worst["optimised", 2] == 1
    assert mean["start", 2] < 0.8
    assert mean["start", 3] < mean["optimised", 3] < 1
    assert worst["optimised", 3] < 0.5
    frame = pd.concat(frames, ignore_index=True)
    metrics = summary(frame)
    assert metrics["worst_2"].value == 1
    assert metrics["bypassed_3"].value == pytest.approx(mean["optimised", 3])
    assert metrics["bypassed_2"].control("not_optimised").difference.value == pytest.approx(1 - mean["start", 2])
    figure, data = draw_cones(frame)
    assert len(data) == len(frame)
    plt.close(figure)
