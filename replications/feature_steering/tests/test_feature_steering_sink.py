"""No edit at position 0, the attention sink, and edits that do nothing or little."""

import pytest
import torch

from common.data.models import chat_prompt, encode, load_tokenizer
from common.interp.generation import begin, behind_first, edited, load_writer
from common.saes.sae import About, Sae
from common.saes.steering import Steering

HOOK = "blocks.14.hook_resid_pre"
PROMPTS = ("Tell me about yourself.", "What is the best way to drive from Los Angeles to Phoenix?")


@pytest.fixture(scope="module")
def asked(model_folder):
    tokenizer = load_tokenizer(model_folder)
    return load_writer(model_folder, dtype=torch.float32), [
        encode(tokenizer, chat_prompt(tokenizer, one)) for one in PROMPTS
    ]


def passed(model, prompts, edit):
    """Log-probabilities behind the last prompt token but one of each prompt, under an edit of the whole prompt."""
    wide = max(map(len, prompts))
    tokens = torch.tensor([[0] * (wide - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (wide - len(one)) + [1] * len(one) for one in prompts])
    with torch.inference_mode(), edited(model, HOOK, behind_first(edit, prompts)):
        logits = model(input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    return logits[:, -1].log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def dictionary(d=576, f=64):
    """Unit rows; the first latent always fires, the others never: their threshold is beyond any value."""
    rows = torch.nn.functional.normalize(torch.randn(f, d, generator=torch.Generator().manual_seed(0)), dim=1)
    threshold = torch.full((f,), 1e6)
    threshold[0] = 0.0
    bias = torch.zeros(f)
    bias[0] = 500.0
    about = About("jumprelu", "m", HOOK)
    return Sae(about, "jumprelu", rows.T.contiguous(), bias, rows, torch.zeros(d), threshold)


@pytest.mark.model
def test_the_first_position_is_a_sink_and_is_never_edited(asked):
    model, prompts = asked
    seen = []

    def spy(x):
        seen.append(x.clone())
        return x + 1000.0

    begin_edit = behind_first(spy, prompts)
    changed = []

    def both(x):
        changed.append(begin_edit(x))
        return changed[-1]

    with torch.inference_mode(), edited(model, HOOK, both):
        begin(model, prompts, torch.arange(2))
    [before], [after] = seen, changed
    wide = max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        first = wide - len(prompt)
        assert torch.equal(before[row, first], after[row, first])
        assert not torch.equal(before[row, first + 1], after[row, first + 1])
        assert before[row, first].norm() > 50 * before[row, first + 1 :].norm(dim=-1).median()


@pytest.mark.model
def test_a_clamp_to_what_a_latent_has_changes_nothing(asked):
    model, prompts = asked
    sae = dictionary()
    plain = passed(model, prompts, lambda x: x)

    seen = []

    def spy(x):
        seen.append(sae.encode(x)[:, -1, 0])
        return x

    passed(model, prompts, spy)
    itself = Steering("clamp", seen[0], sae=sae, latent=torch.tensor([0, 0]))

    def at_the_end(x):
        return torch.cat([x[:, :-1], itself(x[:, -1:])], 1)

    assert seen[0].max() > 0, "it fires"
    assert kl(plain, passed(model, prompts, at_the_end)).abs().max() < 1e-6
    silent = Steering("clamp", torch.zeros(2), sae=sae, latent=torch.tensor([5, 6]))
    assert kl(plain, passed(model, prompts, silent)).abs().max() < 1e-6, "latents that are silent, clamped to 0"


@pytest.mark.model
def test_a_clamp_of_an_inactive_latent_is_bounded_and_grows_with_its_length(asked):
    model, prompts = asked
    sae, plain = dictionary(), passed(model, prompts, lambda x: x)
    cost = [
        float(kl(plain, passed(model, prompts, Steering("clamp", torch.full((2,), length), sae=sae,
                                                        latent=torch.tensor([5, 6])))).max())
        for length in (1.5, 15.0, 75.0)
    ]  # fmt: skip
    assert cost[0] < 0.01 < cost[2], "a hundredth of the norm costs nearly nothing"
    assert cost[0] < cost[1] < cost[2] < 20
