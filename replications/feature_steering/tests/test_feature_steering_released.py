"""A released SAE in the place of own dictionaries."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from common.core.errors import UserError
from common.core.files import read_json, sha256, write_json
from common.core.step import RunInfo
from common.data.models import Manifest, load_tokenizer
from common.interp.generation import load_writer
from common.saes.sae import About, Sae
from replications.feature_steering import prepare as steps
from replications.feature_steering import released
from replications.feature_steering.concepts import REQUESTS, asked, start
from replications.feature_steering.latents import describe
from replications.feature_steering.prepare import PrepareFiles, own_saes, prepare
from replications.feature_steering.released import ReleaseFiles, release
from replications.feature_steering.sae_source import either, memory, of_model
from replications.feature_steering.settings import Concepts, Prepare, Released

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


def test_the_embedded_model_takes_the_shipped_dictionary():
    mine, model = {"judge_layer": 22, "count": 3}, "smollm2-135m-instruct-q4_1"
    assert of_model(model, mine, "own") == {"concepts": mine, "sae": "smollm2-res-14"}
    assert (either(model, "registered", "own"), memory(model)) == ("registered", memory("my-model"))


@pytest.mark.model
def test_text_begins_with_the_token_of_the_tokenizer(model_folder):
    tokenizer = load_tokenizer(model_folder)
    assert tokenizer.decode([start(tokenizer)]) == "<|endoftext|>"
    tokenizer.chat_template = None
    assert asked(tokenizer, "Who?")[0] == start(tokenizer) == 0, "a model without a chat template"

    class Other:
        bos_token_id = 2

        def get_vocab(self):
            return {"<bos>": 2}

    assert start(Other()) == 2
    Other.bos_token_id = None
    with pytest.raises(UserError, match="no token to begin a text with"):
        start(Other())


def saved(model, tokenizer, manifest):
    """Writes a model folder with its manifest."""
    for one in (model, tokenizer):
        one.save_pretrained(manifest.parent)
    files = {path.name: sha256(path) for path in sorted(manifest.parent.iterdir())}
    about = {"name": "tiny", "source": "local", "origin": "tiny", "licence": "none", "processing": "random weights"}
    write_json(manifest, Manifest(**about, files=files).model_dump())


CAPPED = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "head_dim": 8, "num_key_value_heads": 1}


@pytest.mark.model
@pytest.mark.parametrize(("family", "own"), [("llama", {}), ("gemma2", CAPPED)])
def test_a_released_sae_takes_the_place_of_own_ones(model_folder, tmp_path, monkeypatch, family, own):
    tokenizer = load_tokenizer(model_folder)
    shape = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **shape, **own)
    model = AutoModelForCausalLM.from_config(config)
    manifest = tmp_path / "tiny" / "manifest.json"
    saved(model, tokenizer, manifest)
    monkeypatch.setattr(released, "load_public", lambda name, model: dictionary(model))
    monkeypatch.setattr(released, "entry", lambda name: SimpleNamespace(repository="owner/name"))

    index = tmp_path / "released" / "index.json"
    run = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
    for _ in range(2):  # a second time over what is there
        release(ReleaseFiles(manifest=manifest, registry=manifest, index=index), Released(sae="public"), run)
    saes = own_saes(index, ["public-s0", "public-s1"], "tiny")
    assert all(torch.equal(sae.W_enc, dictionary().W_enc) for sae in saes)
    assert saes[0] is saes[1], "one copy serves all seeds"

    about = {"count": 4, "candidates": 2, "held_out_tokens": 8, "words": 5, "judge_layer": 2}
    out = {"prepared": tmp_path / "prepared.safetensors", "concepts": tmp_path / "concepts.json"}
    settings = Prepare(sae="public", concepts=Concepts.model_validate(about))
    described = []
    monkeypatch.setattr(steps, "describe", lambda *given: described.append(given) or describe(*given))
    prepare(PrepareFiles(manifest=manifest, index=index, **out), settings, run)
    torch.set_grad_enabled(True)
    tensors, known = load_file(out["prepared"]), read_json(out["concepts"])
    pools = [tensors[f"pool.{method}.0"] for method in ("sae_output", "random_latent", "random_direction")]
    assert [len(pool) for pool in pools] == [4, 4, 4], "two topics a seed, two candidates each"
    assert not set(pools[0].tolist()) & set(pools[1].tolist()), "a null latent is nobody's candidate"
    assert len(known["topics"]) == len(known["words"]) == 4
    assert {one["index"] for one in known["latents"] if one["seed"] == 0} == set(pools[0].tolist())

    latent, _, values, fired_on = described[0][:4]
    requests, writer = [request for part in REQUESTS.values() for request in part], load_writer(manifest.parent)
    for text in (0, 1, len(requests) + 1):
        topic, request = known["topics"][text // len(requests)], requests[text % len(requests)]
        ids = torch.tensor([[*asked(tokenizer, request.format(topic)), *fired_on[text].tolist()]])
        states = writer(ids, output_hidden_states=True).hidden_states[2].float()
        own = dictionary().encode(states[0, -fired_on.shape[1] :])[:, latent]
        assert torch.allclose(own, values[text], atol=0.05), "values stand beside the tokens that the latent fired on"

    monkeypatch.setattr(released, "load_public", lambda name, model: dictionary("gpt2"))
    with pytest.raises(UserError, match="of gpt2"):
        release(ReleaseFiles(manifest=manifest, registry=manifest, index=index), Released(sae="public"), run)
