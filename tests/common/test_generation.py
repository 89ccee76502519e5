"""Writing with models of GPT-2's, Llama's and Gemma 2's kind: capped logits, gains of norms, places of hooks."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.interp.generation import PLACES, Sampler, edited, generate, reread, unembedded
from common.saes.browser import output_map

D, VOCABULARY = 16, 50
SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": VOCABULARY, "hidden_size": D}
WIDE = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 4}
FAMILIES = {
    "gpt2": {"n_layer": 3, "n_head": 4, "n_embd": D, "vocab_size": VOCABULARY, "n_positions": 64},
    "llama": WIDE,
    "gemma2": {**WIDE, "final_logit_softcapping": 1.0, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 4},
}
PROMPTS = [[1, 7, 9, 11, 2], [1, 30, 8]]


@pytest.fixture(params=FAMILIES)
def tiny(request):
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **FAMILIES[request.param], tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.mul_(8)  # far from linear
        elif not name.endswith("attn.bias"):
            weight.copy_(torch.rand(weight.shape) - 0.3)  # gains and biases that differ
    return model


def test_logits_are_those_of_the_model_cap_included(tiny):
    ids = torch.tensor(PROMPTS[:1])
    own, final = tiny(ids).logits, tiny.base_model(ids).last_hidden_state
    torch.testing.assert_close(unembedded(tiny, final), own)
    if tiny.config.model_type == "gemma2":
        assert (tiny.get_output_embeddings()(final) - own).abs().max() > 0.5  # the cap is felt


def test_the_gain_is_what_the_last_norm_multiplies_by(tiny):
    unembedding, gain = output_map(tiny)
    x = torch.randn(7, D)
    norm = getattr(tiny.base_model, "norm", None) or tiny.base_model.ln_f
    if tiny.config.model_type == "gpt2":
        x, bias = x - x.mean(1, keepdim=True), norm.bias
    else:
        bias = 0.0
    straight = x / x.square().mean(1, keepdim=True).sqrt() * gain + bias
    torch.testing.assert_close(straight, norm(x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(unembedding, tiny.get_output_embeddings().weight)


def test_texts_and_their_nats_are_those_of_the_model(tiny):
    rows = torch.tensor([0, 1, 1])
    written = generate(tiny, PROMPTS, rows, "blocks.1.hook_resid_pre", None, 4, Sampler(0.0, rows, 0, []))
    nats, mean = reread(tiny, PROMPTS, rows, written, "blocks.1.hook_resid_post")
    for row, prompt in enumerate(rows.tolist()):
        ids = torch.tensor([PROMPTS[prompt] + written[row].tolist()])
        out = tiny(ids, output_hidden_states=True)
        log_p = out.logits[0, -5:-1].log_softmax(-1)
        assert torch.equal(log_p.argmax(-1), written[row])
        torch.testing.assert_close(nats[row], -log_p.amax(-1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mean[row], out.hidden_states[2][0, -4:].mean(0), atol=1e-4, rtol=1e-4)


def test_what_the_places_give_adds_up_to_the_residual_stream(tiny):
    seen = {}
    ids = torch.tensor(PROMPTS[:1])
    for place in PLACES:
        with edited(tiny, f"blocks.1.{place}", lambda x, place=place: seen.setdefault(place, x)):
            tiny.base_model(ids)
    parts = seen["hook_resid_pre"] + seen["hook_attn_out"] + seen["hook_mlp_out"]
    torch.testing.assert_close(parts, seen["hook_resid_post"], atol=1e-4, rtol=1e-4)
