"""Two choices about the model: a token in front, rounded weights."""

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from replications.ioi_circuit.sensitivity import in_front, measure, read
from tests.fixtures.ioi_circuit_tiny import tiny_prompts


def test_a_token_in_front_moves_every_position_and_no_word() -> None:
    row = tiny_prompts([0])[3]
    moved = in_front(row, 0)
    assert moved.versions["abc"].tokens == [0, *row.versions["abc"].tokens]
    for name, at in row.positions.model_dump().items():
        own, there = row.versions["original"].tokens[at], moved.versions["original"].tokens[at + 1]
        assert (own, at + 1) == (there, getattr(moved.positions, name))
    assert sum(moved.attention) == sum(row.attention) + 1


def test_readings_agree_with_the_bridge_on_single_prompts(bridge: TransformerBridge) -> None:
    rows = [in_front(row, 0) for row in tiny_prompts([0])[:4]]
    with torch.no_grad():
        found = read(bridge, rows, batch_size=3)
        for place, row in enumerate(rows):
            end = row.positions.end
            last = bridge(torch.tensor([row.versions["original"].tokens[: end + 1]]))[0, -1]
            assert found["difference"][place] == pytest.approx((last[row.io_id] - last[row.s_id]).item(), abs=2e-3)
            partner = bridge(torch.tensor([row.versions["abc"].tokens[: end + 1]]))[0, -1]
            slots = [row.versions["abc"].tokens[at] for at in (row.positions.io, row.positions.s2)]
            assert found["own"][place] == pytest.approx((partner[slots[0]] - partner[slots[1]]).item(), abs=2e-3)
    assert found["effects"].shape == (4, bridge.cfg.n_layers * bridge.cfg.n_heads)


def test_equal_readings_agree_and_shuffled_heads_do_not() -> None:
    rows = tiny_prompts([0, 1])
    generator = np.random.default_rng(0)
    effects = generator.normal(size=(1, 12)) * 5 + generator.normal(0, 0.1, (len(rows), 12))
    same = {"difference": np.full(len(rows), 4.0), "own": np.full(len(rows), 2.0), "effects": effects}
    other = same | {"effects": effects[:, ::-1]}
    metrics = measure({"as_used": same, "token_in_front": same, "bfloat16_weights": other}, rows)
    assert metrics["heads_agree_token_in_front"].value == 1
    assert metrics["heads_agree_bfloat16_weights"].value < 0.5
    assert metrics["abc_own_s2_retained"].value == pytest.approx(0.5)
    assert metrics["strongest_negative"].control("token_in_front").difference.value == pytest.approx(0)
