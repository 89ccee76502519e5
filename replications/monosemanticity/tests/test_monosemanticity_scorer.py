"""The language model as scorer: the right contexts, the right likelihoods, and what it is told."""

import numpy as np
import pytest
import torch

from common.core.errors import UserError
from common.interp.generation import load_writer
from replications.monosemanticity.explain import explain, grouped, peaks
from replications.monosemanticity.language_scorer import (
    BARE,
    Question,
    context_texts,
    looked_up,
    prompts_of,
    questions,
    read_contexts,
)
from replications.monosemanticity.settings import Scorer
from tests.fixtures.ioi_circuit_tiny import save_tiny_model, tiny_tokenizer
from tests.fixtures.monosemanticity_tiny import TEXT, VOCAB, firings, planted

CONTEXT = 4
SCORER = Scorer(latents=3, per_quarter=2, words=2, batch=5)
WORDS = [" Mary", " John", " and", " went", " to", " the", " store", " gave", " a", " drink", "\n", " "]


@pytest.fixture(scope="module")
def found():
    return firings(planted())[0]


def test_half_of_the_contexts_make_the_latent_fire_two_from_each_quarter(found):
    strongest = peaks(found, TEXT, grouped(TEXT, CONTEXT))
    asked = questions(found, TEXT, CONTEXT, SCORER, 0)
    assert [question.latent for question in asked] == [0, 1, 2]
    for question in asked:
        assert question.other != question.latent
        assert ((strongest[question.latent, question.contexts] > 0) == question.fires).all()
        assert question.fires.sum() == len(question.contexts) / 2 == 8
        assert len(set(question.contexts.tolist())) == 16
        every = -np.sort(-strongest[question.latent][strongest[question.latent] > 0])
        ranks = np.searchsorted(-every, -strongest[question.latent, question.contexts[:8]])
        assert ((ranks * 4 / len(every)).astype(int) == np.repeat(range(4), 2)).all()
        places = [np.flatnonzero(grouped(TEXT, CONTEXT) == group) for group in question.contexts]
        assert all(TEXT.scored[place].all() for place in places)  # not the documents that explanations are made on
    with pytest.raises(UserError, match=r"lower 'scorer\.per_quarter'"):
        questions(found, TEXT, CONTEXT, SCORER.model_copy(update={"per_quarter": 100}), 0)


def test_the_model_is_told_the_words_and_the_lexical_scorer_finds_planted_ones(found):
    explained = explain(found, TEXT, VOCAB, 2)
    asked = questions(found, TEXT, CONTEXT, SCORER, 0)
    own, other = prompts_of(explained, WORDS, asked, 2)[0]
    told = [WORDS[token].strip() for token in explained.ranked[0]]
    assert own == f"Words: {', '.join(told)}\n{BARE}"
    assert other == prompts_of(explained, WORDS, asked, 2)[asked[0].other][0]
    one = prompts_of(explained, WORDS, asked, 1)[0][0]
    assert one == f"Words: {told[0]}\n{BARE}"
    held = looked_up(explained, TEXT, CONTEXT)[0, asked[0].contexts]
    assert ((held > 0) == asked[0].fires).all()
    group = int(asked[0].contexts[0])
    tokens = TEXT.token[grouped(TEXT, CONTEXT) == group]
    assert context_texts(TEXT, WORDS, CONTEXT, asked)[group] == "".join(WORDS[token] for token in tokens)


def test_nats_are_those_of_plain_passes(tmp_path):
    """Contexts of different lengths, padded, behind three prompts that are read once."""
    tokenizer = tiny_tokenizer()
    model = load_writer(save_tiny_model("llama", tmp_path / "tiny").parent, dtype=torch.float32)
    texts = {3: " Mary and John went", 7: " the store", 9: " gave a drink to the"}
    asked = [Question(0, 1, np.array([3, 7, 9]), np.array([True, False, True]))]
    pair = ("Words: Mary\nText:\n", "Words: store, drink\nText:\n")
    [nats] = read_contexts(model, tokenizer, asked, [pair], texts, SCORER)
    for row, prompt in enumerate((BARE, *pair)):
        for column, text in enumerate(texts.values()):
            before, after = (tokenizer(one, add_special_tokens=False).input_ids for one in (prompt, text))
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
            literal = -sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(after))
            assert nats[row, column] == pytest.approx(literal, abs=1e-3)
