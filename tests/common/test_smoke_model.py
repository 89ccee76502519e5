"""The model of scale smoke: the kept blocks, in order, and nothing else changed."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import common.recipes.smoke_model as step
from common.core.errors import UserError
from common.core.files import sha256, write_json
from common.core.settings import load_scale
from common.data.models import Manifest, entry
from common.recipes.smoke_model import BLOCKS, SmokeModelFiles, smoke_model

TOKENS = torch.arange(12)[None]


def make(manifest, config, weights):
    smoke_model(SmokeModelFiles(manifest=manifest, config=config, weights=weights))


@pytest.fixture
def parent(tmp_path):
    """A random Llama of four blocks, as a materialised model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, vocab_size=32, tie_word_embeddings=True, **sizes)).eval()
    folder = tmp_path / "parent"
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    files = {path.name: sha256(path) for path in folder.iterdir()}
    about = Manifest(name="parent", source="local", origin="test", licence="MIT", processing="none", files=files)
    write_json(folder / "manifest.json", about.model_dump())
    return model, folder


@torch.no_grad()
def test_blocks_are_kept_in_order(parent, tmp_path, monkeypatch):
    model, folder = parent
    monkeypatch.setattr(step, "BLOCKS", (1, 3))
    out = tmp_path / "out"
    make(folder / "manifest.json", out / "config.json", out / "model.safetensors")
    made = LlamaForCausalLM.from_pretrained(out).eval()
    assert made.config.num_hidden_layers == len(made.model.layers) == 2
    assert (out / "tokenizer.json").read_text() == "{}"
    whole = model(TOKENS).logits
    model.model.layers = torch.nn.ModuleList([model.model.layers[place] for place in (1, 3)])
    torch.testing.assert_close(made(TOKENS).logits, model(TOKENS, use_cache=False).logits)
    assert not torch.allclose(made(TOKENS).logits, whole)


def test_a_damaged_parent_is_refused(parent, tmp_path):
    _, folder = parent
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json is damaged or was changed"):
        make(folder / "manifest.json", tmp_path / "c.json", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_scale_smoke_uses_it_and_says_how_many_blocks_it_has():
    [name] = load_scale("smoke").models
    assert f"{len(BLOCKS)} of the 30 blocks" in entry(name).used_for
    assert list(BLOCKS) == sorted(set(BLOCKS))
