"""Teaching a tiny random model to refuse: what the loss asks for, which weights move, and how they are merged."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from replications.refusal_direction.chat import last_logits
from replications.refusal_direction.fine_tune import Conversation, answer_loss, lesson, low_rank, merge, train
from replications.refusal_direction.settings import TuneSettings
from replications.refusal_direction.tests.tiny import tiny_batch, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def batch():
    return tiny_batch()


def test_loss_learns_refusals_and_keeps_other_answers(model):
    """By hand: half the first token, half the mean; cross-entropy for refusals, KL to the model before for the rest."""
    torch.manual_seed(5)
    before = LlamaForCausalLM(model.config).eval()
    rows = [
        Conversation([1, 2, 3], [4, 5], True),
        Conversation([1, 2, 7], [8], True),
        Conversation([9, 3], [2, 5], False),
    ]
    expected = []
    for prompt, answer, refusal in rows:
        ids, places = torch.tensor([prompt + answer]), range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        log_p, own = (m(ids).logits[0].log_softmax(-1).detach() for m in (model, before))
        if refusal:
            each = [-float(log_p[place, token]) for place, token in zip(places, answer, strict=True)]
        else:
            each = [float((own[place].exp() * (own[place] - log_p[place])).sum()) for place in places]
        expected.append(0.5 * each[0] + 0.5 * np.mean(each))
    for first in (0, 2, 3):
        loss = answer_loss(model, before, lesson(model, before, rows, first), first).item()
        assert loss == pytest.approx(np.mean(expected[:2]) + expected[2], rel=1e-3)
        kept = answer_loss(model, model, lesson(model, model, rows[2:], first), first).item()
        assert kept == pytest.approx(0, abs=1e-5)
        learned = answer_loss(model, before, lesson(model, before, rows[:2], first), first).item()
        assert learned == pytest.approx(np.mean(expected[:2]), rel=1e-3)


@pytest.mark.parametrize("rank", [0, 2])
def test_training_changes_only_the_named_blocks(model, rank):
    tuned = LlamaForCausalLM(model.config).eval()
    tuned.load_state_dict(model.state_dict())
    rows = [Conversation([1, 2, 3 + number], [4, 5], number % 2 == 0) for number in range(6)]
    settings = TuneSettings(
        epochs=6, batch_size=3, learning_rate=0.01, answer_tokens=2, blocks=[0.25, 0.75], rank=rank
    )  # fmt: skip
    losses = train(tuned, model, rows, settings, 0)
    assert losses[-1] < losses[0]
    changed = {name for name, weight in tuned.state_dict().items() if not torch.equal(weight, model.state_dict()[name])}
    assert {name.split(".")[2] for name in changed} == {"1", "2"}
    assert set(tuned.state_dict()) == set(model.state_dict())
    if rank:
        change = tuned.model.layers[1].mlp.up_proj.weight - model.model.layers[1].mlp.up_proj.weight
        assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) == rank


def test_merging_keeps_the_outputs(model, batch):
    tuned = LlamaForCausalLM(model.config).eval().requires_grad_(False)
    tuned.load_state_dict(model.state_dict())
    low_rank(tuned.model.layers[1:3], 2)
    torch.testing.assert_close(last_logits(tuned, batch), last_logits(model, batch), atol=1e-4, rtol=1e-4)
    torch.nn.init.normal_(tuned.model.layers[1].self_attn.o_proj.up)
    changed = last_logits(tuned, batch)
    assert float((changed - last_logits(model, batch)).abs().max()) > 0.1
    merge(tuned.model.layers)
    torch.testing.assert_close(last_logits(tuned, batch), changed, atol=1e-3, rtol=1e-3)
