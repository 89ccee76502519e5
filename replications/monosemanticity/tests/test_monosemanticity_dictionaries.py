"""Which dictionaries are made, and the page of one: its activations, logit weights and explanations."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.core.files import read_json
from common.core.step import RunInfo
from common.saes.saelens import load_saelens
from replications.monosemanticity.dictionaries import DictionariesFiles, dictionaries
from replications.monosemanticity.explain import explain, explanation_text, scored
from replications.monosemanticity.model import Models, activations, save_models
from replications.monosemanticity.settings import Dictionaries
from replications.monosemanticity.units import sparse
from tests.fixtures.monosemanticity_tiny import (
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
    logits = (
        torch.nn.functional.normalize(sae.W_dec, dim=1) @ WEIGHTS["blocks.0.mlp.W_out"][0] @ WEIGHTS["unembed.W_U"][0]
    )
    logits = (logits - logits.mean(0)) / logits.std(0)
    for latent in range(sae.d_sae):
        assert data["words"][data["raised"][latent][0]] == WORDS[int(logits[latent].argmax())]
        assert data["words"][data["lowered"][latent][0]] == WORDS[int(logits[latent].argmin())]


def test_notes_hold_the_explanation_and_its_score(data):
    x = activations(WEIGHTS, TOKENS, SHAPE)[:, 1:].flatten(0, 1)
    firings = sparse(lambda part: tiny_dictionary().encode(x[part]), len(x))
    found = explain(firings, TEXT, VOCAB, MEASURES.set_size)
    score = scored(found, firings, TEXT, MEASURES.context)[0].by_quarter().mean(0)
    assert score[0] > 0.55
    assert (
        data["notes"][0]
        == f"explained by the tokens: {explanation_text(found, 0, WORDS, 2)} (detection {score[0]:.2f})"
    )
    assert data["notes"][1] == "explained by the tokens: (nothing) (fires too rarely to be scored)"
    assert torch.tensor([len(data[key]) for key in ("notes", "top", "density")]).unique().tolist() == [10]


def test_every_kind_of_dictionary_is_made_and_the_relu_one_is_of_the_narrowest_width(tmp_path):
    sizes = Dictionaries(
        widths=[8, 12], width=12, twins=2, sparsity=2, tokens=1000,
        training={"steps": 2, "batch": 64, "learning_rate": 0.01, "warmup": 0, "dead_after": 64, "resample_at": [1]},
    )  # fmt: skip
    save_file({"train": TOKENS.flatten()}, tmp_path / "tokens.safetensors")
    save_models(tmp_path / "models.safetensors", Models(SHAPE, [3], WEIGHTS))
    files = DictionariesFiles(
        tokens=tmp_path / "tokens.safetensors", models=tmp_path / "models.safetensors", index=tmp_path / "index.json",
        traces=tmp_path / "t.csv",
    )  # fmt: skip
    dictionaries(files, sizes, RunInfo(scale="smoke", seeds=[3], device="cpu"))
    made = {
        (one["kind"], one["width"]): load_saelens(tmp_path / one["name"]) for one in read_json(tmp_path / "index.json")
    }
    expected = {(kind, width): "topk" for kind in ("trained", "start") for width in (8, 12)}
    expected |= {("twin1", 8): "topk", ("twin2", 8): "topk", ("untrained", 12): "topk", ("relu", 8): "relu"}
    assert {key: one.activation for key, one in made.items()} == expected
    assert all(one.d_sae == width for (_, width), one in made.items())
