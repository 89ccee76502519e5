"""The measures of models of natural text: cut contexts, times of a change, groups of heads, and their removal."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.core.metrics import read_metrics
from common.toys.settings import Architecture
from common.toys.training import Trained
from common.toys.transformer import forward, initial_weights
from replications.induction_heads.ablate_text import AblateTextFiles, Measured, ablate_text, summary
from replications.induction_heads.arm import ArmResult, save_arm
from replications.induction_heads.data import one_shot
from replications.induction_heads.measure_text import apart, apart_from_others, half_times, share_in_window
from replications.induction_heads.settings import AblateText, Contexts, Text
from replications.induction_heads.text_evaluation import (
    in_context_score,
    losses_of,
    random_repeats_of,
    stretches_of,
    usual_tokens,
)
from replications.induction_heads.text_roles import LEAST_SCORE, groups_of, others, strongest, write_norms
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


def test_times_of_other_seeds_are_paired_by_a_literal_loop():
    heads, gains, last = np.array([20.0, 50.0, 80.0, 100.0]), np.array([22.0, 50.0, 100.0, 90.0]), 100.0
    expected = []
    for i in range(4):
        pairs = [abs(np.log(heads[i] / gains[j])) for j in range(4) if j != i and gains[j] < last]
        expected.append(sum(pairs) / len(pairs) if heads[i] < last else 1.0)  # seed 3 has no heads, seed 2 no gain
    assert apart_from_others(heads, gains, last) == pytest.approx(expected)
    assert apart_from_others(np.array([20.0, 50.0]), np.array([20.0, last]), last) == pytest.approx([1.0, np.log(2.5)])
    same = np.full(4, 40.0)  # all seeds change at one step: pairing within seeds is no better
    assert apart_from_others(same, same, last) == apart(same, same, last)


def test_random_sets_have_as_many_other_heads_in_each_layer():
    score = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(0))
    heads = strongest(score)
    assert int(heads.sum(-1).max()) <= 3
    assert bool(heads.flatten(1).gather(1, score.flatten(1).argmax(1, keepdim=True)).all())
    rest = others(heads, torch.rand(score.shape, generator=torch.Generator().manual_seed(1)))
    assert not bool((rest & heads).any())
    assert torch.equal(rest.sum(-1), heads.sum(-1))


def test_write_norms_equal_a_literal_loop():
    shape = Architecture(
        n_layers=2, keys="plain", positions="shortformer", mlp="none", d_model=16, n_heads=2, d_head=8, d_vocab=20,
        n_ctx=6,
    )  # fmt: skip
    weights, text = initial_weights(shape, [0, 1]), torch.arange(12).reshape(2, 6)
    found, cache = write_norms(weights, shape, text), {}
    forward(weights, text.expand(2, -1, -1), shape, cache=cache)
    for k in range(2):
        for layer in range(2):
            for head in range(2):
                z, W_O = cache[f"blocks.{layer}.attn.hook_z"][k], weights[f"blocks.{layer}.attn.W_O"][k, head]
                each = [float((z[b, t, head] @ W_O).norm()) for b in range(2) for t in range(1, 6)]
                assert float(found[k, layer, head]) == pytest.approx(sum(each) / len(each), rel=1e-4)


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
    return Text(length=16, d_vocab=d_vocab, shortest_block=3, longest_block=4, copies=2)


def test_removing_the_heads_of_a_hand_built_circuit_removes_its_score(tmp_path):
    """Held-out text whose late targets repeat a far block: without the induction head far context is of no use."""
    shape, weights = hand_built(loud=3.0)
    shape = shape.model_copy(update={"n_heads": 2})
    for name in [name for name in weights if ".attn." in name]:
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name])], 1)
    weights = {name: value[:1].expand(2, *value.shape[1:]) for name, value in weights.items()}
    snapshots = {name: value[None] for name, value in weights.items()}
    known = VOCAB - VOCAB // 5 - VOCAB // 20  # random repeats leave out the commonest and the rarest tokens
    text = Text(length=known, d_vocab=known, shortest_block=4, longest_block=6, copies=2)
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
    base = shape.model_copy(update={"n_layers": 1})
    first = {name: value[None] for name, value in initial_weights(base, [0, 1]).items()}
    save_arm(
        tmp_path / "one_layer.safetensors",
        ArmResult(base, text, [0, 1], [0], [0], Trained(first, torch.zeros(1, 2), {})),
    )
    files = AblateTextFiles(
        arms=[tmp_path / f"{name}.safetensors" for name in ("two_layers", "one_layer")],
        tokens=tmp_path / "tokens.safetensors", metrics=tmp_path / "metrics.json", table=tmp_path / "ablations.csv",
    )  # fmt: skip
    settings = AblateText(contexts=Contexts(late=late, early=1, width=block - 1), repeats=16, draws=2)
    groups = groups_of(weights, shape, one_shot(text, 16, 1), tokens, 2)
    assert groups["induction"][0].tolist() == [[False, False], [True, False]]
    assert groups["random_0"][0].tolist() == [[False, False], [False, True]]
    assert torch.equal(groups["writers"], groups["random_0"])  # one other head is left in the layer
    assert groups["first"].sum((1, 2)).tolist() == [1, 1]  # as many as there are induction heads
    assert not bool((groups["first"] & (groups["previous"] | groups["induction"])).any())
    assert not bool(groups["first"][:, 1].any())
    ablate_text(files, settings)
    metrics = read_metrics(files.metrics)
    found = metrics["lost_two_layers"]
    assert found.value > 0.8
    assert found.control("heads_that_write_most").value == pytest.approx(0, abs=1e-6)
    assert metrics["lost_one_layer"].controls
    assert "one_layer" not in [control.name for control in metrics["lost_one_layer"].controls]
    in_nats = metrics["lost_nats_two_layers"]
    assert in_nats.value > 1
    assert in_nats.control("one_layer").value < 0.5 * in_nats.value
    assert found.control("random_heads").value == pytest.approx(0, abs=1e-6)
    assert found.control("previous_token_heads").value < 0.1
    assert found.control("first_layer_heads").value < 0.1


def test_a_head_below_the_least_score_is_no_induction_head_but_is_removed_as_the_highest():
    shape = Architecture(
        n_layers=1, keys="plain", positions="shortformer", mlp="none", d_model=16, n_heads=4, d_head=8, d_vocab=200,
        n_ctx=120,
    )  # fmt: skip
    weights = initial_weights(shape, [0, 1])
    weights["blocks.0.attn.W_Q"].zero_()  # even attention
    text = Text(length=120, d_vocab=200, shortest_block=8, longest_block=20, copies=2)
    once = one_shot(text, 8, 0)
    groups = groups_of(weights, shape, once, once.tokens, 2)
    assert LEAST_SCORE > 1 / 120
    for name in ("induction", "random_0", "writers"):
        assert not bool(groups[name].any())
    assert groups["highest"].sum((1, 2)).tolist() == [2, 2]


def test_what_one_layer_loses_is_a_control_in_shares_and_in_nats():
    def scores(intact, induction, highest, random):
        groups = {"intact": intact, "induction": induction, "highest": highest}
        groups |= dict.fromkeys(("previous", "writers", "first"), intact)
        groups |= {"random_0": random, "random_1": intact}
        return {name: Measured(torch.tensor(one), 3 + 2 * torch.tensor(one)) for name, one in groups.items()}

    two = scores([-0.2, -0.4], [-0.02, -0.1], [-0.02, -0.1], [-0.1, -0.2])
    one = scores([-0.02, -0.04, -0.1], [-0.02, -0.04, -0.1], [-0.005, -0.03, 0.0], [-0.02, -0.04, -0.1])
    found = summary(two, one)
    assert found["lost"].per_seed == pytest.approx([0.9, 0.75])
    assert found["lost"].control("one_layer").per_seed == pytest.approx([0.075, 0.025])  # of what two layers score
    assert found["lost"].control("random_heads").per_seed == pytest.approx([0.25, 0.25])
    assert found["lost_nats"].per_seed == pytest.approx([0.18, 0.3])
    assert found["lost_nats"].control("one_layer").per_seed == pytest.approx([0.015, 0.01])
    assert found["near_cost"].per_seed == pytest.approx([0.36, 0.6])
    assert found["near_cost"].control("random_heads").per_seed == pytest.approx([0.1, 0.2])
