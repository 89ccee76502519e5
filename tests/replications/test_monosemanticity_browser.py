"""The page of a dictionary: activations, logit weights and explanations are those measured elsewhere."""

import json

import numpy as np
import pytest
import torch

from replications.monosemanticity.explain import explain, scored, wording
from replications.monosemanticity.model import activations
from replications.monosemanticity.units import sparse
from tests.replications.monosemanticity_tiny import (
    MEASURES,
    SHAPE,
    TEXT,
    TOKENS,
    VOCAB,
    WEIGHTS,
    WORDS,
    tiny_dictionary,
    tiny_page,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    page = tiny_page(tmp_path_factory.mktemp("page")).read_text()
    inside = page.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(inside)
    return json.loads(inside)


def test_activations_are_those_of_the_dictionary_behind_the_first_position(data):
    values = tiny_dictionary().encode(activations(WEIGHTS, TOKENS, SHAPE))
    values[:, 0] = 0
    assert [data["words"][word] for word in data["tokens"]] == [WORDS[token] for token in TOKENS.flatten()]
    for latent, column in enumerate(values.flatten(0, 1).mT):
        assert np.cumsum(data["at"][latent]).tolist() == column.nonzero()[:, 0].tolist()
    assert data["at"][0]
    assert data["at"][1] == []


def test_raised_tokens_are_those_of_the_straight_path(data):
    sae = tiny_dictionary()
    logits = sae.W_dec @ WEIGHTS["blocks.0.mlp.W_out"][0] @ WEIGHTS["unembed.W_U"][0]
    logits = (logits - logits.mean(0)) / logits.std(0)
    for latent in range(sae.d_sae):
        assert data["words"][data["raised"][latent][0]] == WORDS[int(logits[latent].argmax())]
        assert data["words"][data["lowered"][latent][0]] == WORDS[int(logits[latent].argmin())]


def test_notes_hold_the_explanation_and_its_score(data):
    x = activations(WEIGHTS, TOKENS, SHAPE)[:, 1:].flatten(0, 1)
    firings = sparse(lambda part: tiny_dictionary().encode(x[part]), len(x))
    found = explain(firings, TEXT, VOCAB, MEASURES.set_size)
    score = scored(found, firings, TEXT, MEASURES.context)[0].by_quarter().mean(0)
    assert data["notes"][0] == f"explained by the tokens: {wording(found, 0, WORDS, 2)} (detection {score[0]:.2f})"
    assert data["notes"][1] == "explained by the tokens: (nothing) (fires too rarely to be scored)"
    assert torch.tensor([len(data[key]) for key in ("notes", "top", "density")]).unique().tolist() == [10]
