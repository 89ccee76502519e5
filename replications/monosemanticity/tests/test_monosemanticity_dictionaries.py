"""Which dictionaries are made, and the page of one: its activations, logit weights and explanations."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.core.step import RunInfo
from common.saes.index import read_index
from replications.monosemanticity.dictionaries import TWINS, DictionariesFiles, dictionaries
from replications.monosemanticity.explain import explained
from replications.monosemanticity.model import Models, load_models, save_models
from replications.monosemanticity.settings import Dictionaries
from replications.monosemanticity.units import left_start
from tests.fixtures.monosemanticity_tiny import (
    READING,
    SHAPE,
    TEXT,
    TOKENS,
    WEIGHTS,
    WINDOWS,
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


def test_models_are_stored_as_the_same_bytes_each_time(tmp_path):
    for name in "abcdefgh":
        save_models(tmp_path / name, Models(SHAPE, [3, 4], WEIGHTS))
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1
    assert load_models(tmp_path / "a")[:2] == (SHAPE, [3, 4])


def test_activations_are_those_of_the_dictionary_between_the_ends_of_windows(data):
    values = torch.zeros(*TOKENS.shape, 10)
    values[:, 1:-1] = tiny_dictionary().encode(READING.x).unflatten(0, (WINDOWS, TEXT.wide))
    assert [data["words"][word] for word in data["tokens"]] == [WORDS[token] for token in TOKENS.flatten()]
    for latent, column in enumerate(values.flatten(0, 1).mT):
        assert np.cumsum(data["at"][latent]).tolist() == column.nonzero()[:, 0].tolist()
    assert data["at"][0]
    assert data["at"][1] == []


def test_raised_tokens_are_those_of_the_straight_path(data):
    sae = tiny_dictionary()
    logits = torch.nn.functional.normalize(sae.W_dec, dim=1) @ READING.to_middle @ READING.to_logits
    logits = (logits - logits.mean(0)) / logits.std(0)
    for latent in range(sae.d_sae):
        assert data["words"][data["raised"][latent][0]] == WORDS[int(logits[latent].argmax())]
        assert data["words"][data["lowered"][latent][0]] == WORDS[int(logits[latent].argmin())]


def test_notes_hold_the_tokens_and_how_well_they_predict(data):
    score = explained(tiny_dictionary().encode(READING.x), TEXT).all
    assert data["notes"][0].startswith("fires on the tokens: ")
    assert data["notes"][0].endswith(f"(correlation with prediction {score[0]:.2f})")
    assert data["notes"][1] == "fires on the tokens:  (fires too rarely to be scored)"
    assert torch.tensor([len(data[key]) for key in ("notes", "top", "density")]).unique().tolist() == [10]


def test_every_kind_of_dictionary_is_made(tmp_path):
    sizes = Dictionaries(
        widths=[8, 12], sparsity=2, tokens=1000, relu=True,
        training={"steps": 2, "batch": 64, "learning_rate": 0.01, "warmup": 0, "dead_after": 64, "resample_at": [1]},
    )  # fmt: skip
    save_file({"train": TOKENS.flatten()}, tmp_path / "tokens.safetensors")
    save_models(tmp_path / "models.safetensors", Models(SHAPE, [3], WEIGHTS))
    files = DictionariesFiles(
        tokens=tmp_path / "tokens.safetensors", models=tmp_path / "models.safetensors", index=tmp_path / "index.json"
    )
    dictionaries(files, sizes, RunInfo(scale="smoke", seeds=[3], device="cpu"))
    index = read_index(files.index)
    made = {name.removesuffix("-s3"): index.load(name) for name in index.entries}
    expected = {f"{kind}-{width}": "topk" for kind in ("trained", "start") for width in (8, 12)}
    expected |= {f"{twin}-8": "topk" for twin in TWINS} | {"untrained-12": "topk", "relu-12": "relu"}
    assert {key: one.activation for key, one in made.items()} == expected
    assert all(one.d_sae == int(key.split("-")[1]) for key, one in made.items())
    assert left_start(made["start-8"], made["start-8"]) == pytest.approx(1)
    assert 0.9 < left_start(made["trained-8"], made["start-8"]) < 0.9999
    same_width = [made[f"{name}-8"] for name in ("trained", *TWINS)]
    assert all(left_start(one, other) < 0.7 for one, other in combinations(same_width, 2))
