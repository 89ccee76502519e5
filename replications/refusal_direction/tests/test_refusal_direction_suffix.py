"""A suffix that ends refusal, on tiny random models: the search, and what is read while it stands behind a request."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from replications.refusal_direction.chat import (
    before_block,
    last_logits,
    layers,
    padded,
    refusal_metric,
    residuals,
    unit,
)
from replications.refusal_direction.settings import SuffixSettings
from replications.refusal_direction.suffix import Reading, attention_of, most, projections, written
from replications.refusal_direction.suffix_search import Asking, find_suffix, gradient, objective, plain_tokens
from replications.refusal_direction.tests.tiny import FAMILIES, VOCABULARY, WIDTH, tiny_model

ASKING, TOKENS = Asking([[1, 2, 3, 9, 10], [4, 5, 9, 10], [1, 2, 6, 7, 9, 10]], 2), torch.tensor([4, 9])
ALLOWED = torch.arange(VOCABULARY) >= 20
SIZES = SuffixSettings(n_seeds=1, prompts=3, tokens=4, steps=6, swaps=8, top=5, new_tokens=1)
LAYER = 3
READING = Reading(
    unit(torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))), LAYER, -2, harmless=0.5, harmful=2.5
)  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def search(model, *, guided, seed=0, **changes):
    settings = SIZES.model_copy(update=changes)
    return find_suffix(model, ASKING, TOKENS, ALLOWED, settings, torch.Generator().manual_seed(seed), guided=guided)


def test_a_suffix_stands_between_instruction_and_template():
    assert ASKING.ending([30, 31]) == [[1, 2, 3, 30, 31, 9, 10], [4, 5, 30, 31, 9, 10], [1, 2, 6, 7, 30, 31, 9, 10]]
    assert ASKING.ending([]) == ASKING.prompts


def test_the_objective_equals_one_prompt_at_a_time(model):
    suffixes = [[30, 31], [32, 33], [30, 34]]
    expected = [
        sum(float(refusal_metric(last_logits(model, padded([ids])), TOKENS)) for ids in ASKING.ending(suffix)) / 3
        for suffix in suffixes
    ]
    assert objective(model, ASKING, suffixes, TOKENS).tolist() == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_the_gradient_is_that_of_a_mixture_of_tokens(model):
    """Against finite differences: a small share of another token's embedding in place of the own one."""
    suffix, place, token, share = [30, 31, 32], 1, 40, 1e-3
    slopes = gradient(model, ASKING, suffix, TOKENS)
    read, found = model.get_input_embeddings(), []
    for sign in (1, -1):
        mixed = []
        for ids in ASKING.ending(suffix):
            x = read(torch.tensor([ids]))
            at = len(ids) - ASKING.tail - len(suffix) + place
            x[0, at] += sign * share * (read(torch.tensor(token)) - read(torch.tensor(suffix[place])))
            states = model.model(inputs_embeds=x, use_cache=False).last_hidden_state
            mixed.append(refusal_metric(model.lm_head(states[:, -1]).float(), TOKENS))
        found.append(float(torch.cat(mixed).mean()))
    expected = (found[0] - found[1]) / (2 * share)
    assert float(slopes[place, token] - slopes[place, suffix[place]]) == pytest.approx(expected, rel=0.05, abs=0.02)


def test_the_best_suffix_is_kept_and_holds_allowed_tokens_alone(model):
    start = search(model, guided=True, steps=1, swaps=1)
    for guided in (True, False):
        found = search(model, guided=guided)
        assert len(found.ids) == SIZES.tokens
        assert all(ALLOWED[found.ids])
        assert found.metric == pytest.approx(float(objective(model, ASKING, [found.ids], TOKENS)[0]), abs=1e-3)
        assert found.metric < start.metric


def test_the_gradient_finds_more_than_chance():
    model = tiny_model()
    pairs = [[search(model, guided=guided, seed=seed).metric for guided in (True, False)] for seed in range(8)]
    assert sum(guided for guided, _ in pairs) < sum(other for _, other in pairs)


def test_projections_are_in_units_of_the_class_means(model):
    batch = padded(ASKING.prompts)
    x = residuals(model, batch)[:, READING.position, LAYER]
    stream = before_block(model, batch, LAYER, -READING.position)[:, 0]
    expected = (x @ READING.r - READING.harmless) / (READING.harmful - READING.harmless)
    torch.testing.assert_close(projections(stream, READING), expected, atol=1e-4, rtol=1e-4)


def test_heads_together_write_what_attention_writes(model):
    seen = []
    handles = [
        block.self_attn.register_forward_hook(lambda *given: seen.append(given[-1][0])) for block in layers(model)
    ]
    batch = padded(ASKING.prompts)
    last_logits(model, batch)
    for handle in handles:
        handle.remove()
    expected = torch.stack([(x[:, READING.position] @ READING.r).mean() for x in seen[:LAYER]])
    torch.testing.assert_close(written(model, batch, READING).sum(1), expected, atol=1e-3, rtol=1e-3)


def test_the_heads_that_write_most_are_few():
    values = torch.arange(30.0).view(3, 10)
    assert most(values).sum() == 8
    assert most(values)[2, 2:].all()
    assert most(torch.arange(4.0).view(2, 2)).tolist() == [[False, False], [True, True]]


def test_attention_goes_to_the_instruction_and_to_the_suffix(model):
    """Against one prompt at a time, without padding, column by column."""
    suffix, head, tail = [30, 31], 1, ASKING.tail
    prompts = ASKING.ending(suffix)
    found = attention_of(model, padded(prompts), READING, head, tail, len(suffix))
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")
    for row, ids in enumerate(prompts):
        patterns = model.model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
        columns = slice(head, -tail - len(suffix)), slice(-tail - len(suffix), -tail)
        assert [ids[one] for one in columns] == [ASKING.prompts[row][1:-2], suffix]
        for one, values in zip(columns, found, strict=True):
            expected = torch.stack([pattern[0, :, READING.position, one].sum(-1) for pattern in patterns[:LAYER]])
            torch.testing.assert_close(values[row], expected, atol=1e-4, rtol=1e-3)
    model.set_attn_implementation(kept)
    assert model.config._attn_implementation == kept
    nothing = attention_of(model, padded(ASKING.prompts), READING, head, tail, 0)
    assert nothing.suffix.abs().max() == 0


def test_suffixes_hold_no_special_token():
    """A token may be special without having a role: all of them are left out."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<end>": 0, "<file>": 1, "plain": 2, "caf\u00e9": 3}, "<end>")),
        eos_token="<end>",
    )
    tokenizer.add_tokens([AddedToken("<file>", special=True)])
    assert tokenizer.all_special_ids == [0]
    assert plain_tokens(tokenizer, 6).tolist() == [False, False, True, False, False, False]
