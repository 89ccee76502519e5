"""A released SAE in the place of own dictionaries; latents and logits piece by piece, which makes a large one fit."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from common.core.errors import UserError
from common.core.step import RunInfo
from common.data.models import Manifest, load_tokenizer
from common.saes.harvest import harvest
from common.saes.sae import About, Sae
from common.saes.saelens import load_saelens
from common.saes.stream import Activations
from replications.feature_steering import latents, released
from replications.feature_steering.concepts import header, start
from replications.feature_steering.judge import direct_logits
from replications.feature_steering.latents import latents_of, logit_effect
from replications.feature_steering.prepare import PrepareFiles, own_saes, prepare
from replications.feature_steering.released import ReleaseFiles, release
from replications.feature_steering.sae_source import either, memory, of_model
from replications.feature_steering.settings import Concepts, Prepare, Released
from replications.refusal_direction.folders import save

D, F = 16, 40


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dictionary(model="tiny"):
    about = About("jumprelu", model, "blocks.1.hook_resid_post")
    rows = torch.nn.functional.normalize(drawn(F, D, seed=1), dim=1)
    return Sae(about, "jumprelu", rows.T.contiguous(), torch.zeros(F), rows, torch.zeros(D), torch.full((F,), 0.01))


def test_the_judge_of_a_released_sae_stands_behind_it():
    mine = {"judge_layer": 20, "count": 3}
    assert of_model("my-model", mine, "own") == {"concepts": mine, "sae": "own"}
    assert of_model("gpt2", mine, "own") == {"concepts": {"judge_layer": 11, "count": 3}, "sae": "gpt2-res-jb-8"}
    for model in ("gemma-2-2b", "gemma-2-2b-it"):
        assert of_model(model, mine, "own")["concepts"]["judge_layer"] == 20, "this SAE stands behind block 16"
    assert [either(model, "released", "own") for model in ("gpt2", "my-model")] == ["released", "own"]
    assert memory("gemma-2-2b-it") > 1.5 * memory("gpt2") > memory("my-model")


def test_latents_and_logits_are_the_same_piece_by_piece(monkeypatch):
    sae, x = dictionary(), drawn(7, 5, D)
    values = sae.encode(x)
    found = latents_of(sae, x, 3)
    torch.testing.assert_close(found.mean, values.mean(1))
    torch.testing.assert_close(found.peak, values.amax(1))
    assert torch.equal(values.gather(1, found.place[:, None])[:, 0], found.peak)
    unembedding, gain = drawn(30, D, seed=2), drawn(D, seed=3)
    logits = direct_logits(sae.W_dec, unembedding, gain)
    wanted = ((logits - logits.mean(0)) / logits.std(0)).topk(latents.TOP_TOKENS, 1)
    monkeypatch.setattr(latents, "AT_ONCE", 9 * 30)  # of 40 latents, and one document
    assert torch.equal(latents_of(sae, x, 3).peak, found.peak)
    effect, raised = logit_effect(sae.W_dec, unembedding, gain)
    torch.testing.assert_close(effect, wanted.values, atol=1e-4, rtol=1e-4)
    assert torch.equal(raised, wanted.indices)


@pytest.mark.model
def test_text_begins_with_the_token_of_the_tokenizer(model_folder):
    tokenizer = load_tokenizer(model_folder)
    assert tokenizer.decode([start(tokenizer)]) == "<|endoftext|>"
    assert header(tokenizer, "a.b")[0] == start(tokenizer) == 0

    class Other:
        bos_token_id = 2

        def get_vocab(self):
            return {"<bos>": 2}

    assert start(Other()) == 2
    Other.bos_token_id = None
    with pytest.raises(UserError, match="no token to begin a text with"):
        start(Other())


CAPPED = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "head_dim": 8, "num_key_value_heads": 1}


@pytest.mark.model
@pytest.mark.parametrize(("family", "own"), [("llama", {}), ("gemma2", CAPPED)])
def test_a_released_sae_takes_the_place_of_own_ones(model_folder, corpus_folder, tmp_path, monkeypatch, family, own):
    tokenizer = load_tokenizer(model_folder)
    origin = Manifest(name="tiny", source="local", origin="tiny", licence="none", processing="none", files={})
    shape = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **shape, **own)
    model = AutoModelForCausalLM.from_config(config)
    manifest = tmp_path / "tiny" / "manifest.json"
    save(model, tokenizer, manifest, origin=origin, processing="random weights")
    manifest.write_text(manifest.read_text().replace("tiny-tiny", "tiny"))
    monkeypatch.setattr(released, "TOKENS", (600, 200))
    monkeypatch.setattr(released, "load_public", lambda name, model: dictionary(model))

    def beginning(bridge, texts, *rest):
        assert bool((texts.tokens[:, 0] == start(tokenizer)).all())
        assert bool(texts.real[:, 0].all())
        return harvest(bridge, texts, *rest)

    monkeypatch.setattr(released, "harvest", beginning)
    docs, index = corpus_folder / "manifest.json", tmp_path / "released" / "index.json"
    stored = tmp_path / "released" / "activations" / "manifest.json"
    run = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
    files = ReleaseFiles(manifest=manifest, docs=docs, chat=docs, registry=docs, index=index, activations=stored)
    for _ in range(2):  # a second time over what is there
        release(files, Released(sae="public"), run)
    saes = own_saes(index, ["public-s0", "public-s1"], "tiny")
    assert all(torch.equal(sae.W_enc, dictionary().W_enc) for sae in saes)
    assert saes[0] is saes[1], "one copy serves all seeds"
    kept = Activations(stored.parent)
    assert (kept.manifest.model, kept.manifest.hook) == ("tiny", "blocks.1.hook_resid_post")
    assert kept.manifest.dropped["first position"] > 0

    concepts = Concepts.model_validate(
        {"count": 3, "training": 4, "judging": 6, "scaling": 3, "texts": 2, "tokens": 12, "judge_layer": 2,
         "lexicon": 10, "contexts": 3, "batch": 8}
    )  # fmt: skip
    names = {"prepared": "prepared.safetensors", "concepts": "concepts.json", "latents": "latents.json"}
    out = {key: tmp_path / "made" / name for key, name in (names | {"detectors": "detectors.csv"}).items()}
    own_files = PrepareFiles(manifest=manifest, docs=docs, index=index, activations=stored, **out)
    prepare(own_files, Prepare(sae="public", concepts=concepts), run)
    torch.set_grad_enabled(True)
    assert len(json.loads(out["latents"].read_text())["latents"]) == F
    tensors = load_file(out["prepared"])
    chosen = tensors["latent.sae.0"]
    torch.testing.assert_close(tensors["vector.sae.0"], load_saelens(index.parent / "public-s0").W_dec[chosen])

    monkeypatch.setattr(released, "load_public", lambda name, model: dictionary("gpt2"))
    with pytest.raises(UserError, match="of gpt2"):
        release(files, Released(sae="public"), run)
