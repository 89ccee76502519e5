"""The measures of models of natural text: cut contexts, times of a change, groups of heads, and their removal."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.core.metrics import read_metrics
from common.toys.settings import Architecture
from common.toys.training import Trained
from common.toys.transformer import initial_weights
from replications.induction_heads.ablate_text import AblateTextFiles, ablate_text, groups_of, others, strongest
from replications.induction_heads.arm import ArmResult, save_arm
from replications.induction_heads.data import one_shot
from replications.induction_heads.measure_text import apart, half_times, share_in_window
from replications.induction_heads.settings import AblateText, Contexts, Text
from replications.induction_heads.text_evaluation import (
    in_context_score,
    losses_of,
    random_repeats_of,
    stretches_of,
    usual_tokens,
)
from replications.induction_heads.train_text import sinusoids
from tests.common.test_head_scores import LENGTH, VOCAB, hand_built

CONTEXTS = Contexts(late=9, early=2, width=5)
STEPS = np.arange(0, 101, 10, dtype=float)


def test_the_short_context_has_the_same_targets():
    tokens = torch.arange(32).reshape(2, 16)
    held = stretches_of(tokens, CONTEXTS)
    late, early = (part[:, first + 1 : first + 6] for part, first in ((held.long, 9), (held.short, 2)))
    assert torch.equal(late, early)


def test_a_model_that_reads_no_context_scores_zero_and_one_that_copies_scores_below():
    shape = Architecture(
        n_layers=1, keys="plain", positions="shortformer", mlp="none", d_model=16, n_heads=2, d_head=8, d_vocab=20,
        n_ctx=16,
    )  # fmt: skip
    weights = initial_weights(shape, [0, 1])
    weights["blocks.0.attn.W_O"].zero_()
    held = stretches_of(torch.randint(20, (6, 16), generator=torch.Generator().manual_seed(0)), CONTEXTS)
    long, short = (losses_of(weights, tokens, shape) for tokens in (held.long, held.short))
    assert in_context_score(long, short, CONTEXTS).abs().max() < 1e-6
    assert float((long[:, :, 9:14] - short[:, :, 2:7]).abs().max()) < 1e-5


def test_half_times_and_windows_of_planted_curves():
    step, line, flat = np.where(STEPS > 55, 1.0, 0.0), STEPS / 100, 0 * STEPS
    found = half_times(STEPS, np.stack([step, line, flat]), 0.05)
    assert found[0] == pytest.approx(55)
    assert found[1] == pytest.approx(45, abs=3)
    assert found[2] == 100
    assert share_in_window(STEPS, step, 0.25) == pytest.approx(1)
    assert share_in_window(STEPS, line, 0.25) == pytest.approx(0.25 / 0.9, abs=0.05)
    assert share_in_window(STEPS, flat, 0.25) == 0
    assert apart(np.array([90.0, 45.0, 100.0]), np.array([45.0, 45.0, 100.0]), 100.0) == pytest.approx(
        [np.log(2), 0, 1]
    )


def test_random_sets_have_as_many_other_heads_in_each_layer():
    score = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(0))
    heads = strongest(score)
    assert int(heads.sum(-1).max()) <= 3
    assert bool(heads.flatten(1).gather(1, score.flatten(1).argmax(1, keepdim=True)).all())
    rest = others(heads, torch.rand(score.shape, generator=torch.Generator().manual_seed(1)))
    assert not bool((rest & heads).any())
    assert torch.equal(rest.sum(-1), heads.sum(-1))


def test_positions_start_as_sinusoids_that_a_rotation_shifts():
    found = sinusoids(32, 16)
    assert float(found.square().mean().sqrt()) == pytest.approx(2, rel=1e-4)
    sine, cosine = found.reshape(32, 8, 2).unbind(-1)
    shift = torch.atan2(sine[1], cosine[1])  # angle by which one position turns each pair
    turned = torch.complex(cosine, sine)[:-1] * torch.polar(torch.ones(8), shift)
    torch.testing.assert_close(turned, torch.complex(cosine, sine)[1:], atol=1e-4, rtol=0)
    assert float(found[:, 0].abs().max()) < 1e-4  # wavelength 2: the sine vanishes


def test_usual_tokens_leave_out_both_ends():
    stream = torch.repeat_interleave(torch.arange(20), torch.arange(20, 0, -1))
    assert usual_tokens(stream, 20).tolist() == list(range(1, 16))
    drawn = random_repeats_of(torch.arange(50, 70), text_of(20), 4, 0)
    assert int(drawn.tokens.min()) >= 50


def text_of(d_vocab):
    return Text(length=16, d_vocab=d_vocab, shortest=2, longest=8, shortest_block=3, longest_block=4)


def test_removing_the_heads_of_a_hand_built_circuit_removes_its_score(tmp_path):
    """Held-out text whose late targets repeat a far block: without the induction head far context is of no use."""
    shape, weights = hand_built(loud=3.0)
    shape = shape.model_copy(update={"n_heads": 2})
    for name in [name for name in weights if ".attn." in name]:
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name])], 1)
    weights = {name: value[:1].expand(2, *value.shape[1:]) for name, value in weights.items()}
    snapshots = {name: value[None] for name, value in weights.items()}
    known = VOCAB - VOCAB // 5 - VOCAB // 20  # random repeats leave out the commonest and the rarest tokens
    text = Text(length=LENGTH, d_vocab=known, shortest=4, longest=9, shortest_block=4, longest_block=6)
    save_arm(
        tmp_path / "two_layers.safetensors",
        ArmResult(shape, text, [0, 1], [0], [0], Trained(snapshots, torch.zeros(1, 2), {})),
    )
    block = 5
    fresh = torch.stack([torch.randperm(VOCAB)[: LENGTH - block] for _ in range(16)])
    tokens = torch.cat([fresh[:, :block], fresh[:, block:], fresh[:, :block]], 1)
    stream = torch.arange(VOCAB).repeat(50)
    save_file({"train": stream.int(), "held_out": tokens.int()}, tmp_path / "tokens.safetensors")
    late = LENGTH - block
    files = AblateTextFiles(
        arms=[tmp_path / "two_layers.safetensors"], tokens=tmp_path / "tokens.safetensors",
        metrics=tmp_path / "metrics.json", table=tmp_path / "ablations.csv",
    )  # fmt: skip
    settings = AblateText(contexts=Contexts(late=late, early=1, width=block - 1), repeats=16, draws=2)
    groups = groups_of(weights, shape, one_shot(text, 16, 1), 2)
    assert groups["induction"][0].tolist() == [[False, False], [True, False]]
    assert groups["random_0"][0].tolist() == [[False, False], [False, True]]
    ablate_text(files, settings)
    found = read_metrics(files.metrics)["lost_two_layers"]
    assert found.value > 0.8
    assert found.control("random_heads").value == pytest.approx(0, abs=1e-6)
    assert found.control("previous_token_heads").value < 0.1
