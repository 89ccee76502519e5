"""First-layer attention held fixed through training."""

import numpy as np
import pytest
import torch

from common.toys.settings import Architecture
from common.toys.transformer import Weights, forward, initial_weights
from replications.induction_heads.train_clamped import clamp, compare

SHAPE = Architecture(
    n_layers=2, keys="plain", positions="shortformer", mlp="none", d_model=16, n_heads=2, d_head=8, d_vocab=20, n_ctx=12
)  # fmt: skip


def second_layer_keys(back: int, tokens: torch.Tensor) -> torch.Tensor:
    weights = initial_weights(SHAPE, [0, 1])
    seen: Weights = {}

    def visit(name: str, value: torch.Tensor) -> torch.Tensor:
        seen[name] = value
        return value

    forward(weights, tokens, SHAPE, ablation=clamp(weights, SHAPE, back), visit=visit)
    return seen["blocks.1.attn.hook_k"]


@pytest.mark.parametrize(("back", "moved"), [(0, {5}), (1, {5, 6})])
def test_keys_of_the_second_layer_know_their_own_token_and_the_clamped_one_alone(back, moved):
    tokens = torch.randint(20, (2, 3, 12), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, :, 5] = (other[:, :, 5] + 1) % 20
    change = (second_layer_keys(back, tokens) - second_layer_keys(back, other)).abs().amax((0, 1, 3, 4))
    assert set(torch.nonzero(change > 1e-6)[:, 0].tolist()) == moved


def test_times_are_those_of_half_the_plain_gain():
    steps = np.arange(0, 101, 10, dtype=float)
    late, early = np.clip((steps - 50) / 10, 0, 1) * 3, np.clip((steps - 20) / 10, 0, 1) * 3
    found = compare(
        steps,
        {"plain": np.stack([late, late]), "previous": np.stack([early, early]), "present": 0 * np.stack([late, late])},
    )
    assert found["clamped_over_plain"].value == pytest.approx(25 / 55)
    assert found["clamped_over_plain"].controls[0].value == pytest.approx(1)
    assert found["gain_present"].value == 0
