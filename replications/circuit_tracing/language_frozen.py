"""Frozen passes of a language model: GPT-2, Llama and their like, which `common.interp.decoder` covers and checks."""

from typing import TYPE_CHECKING

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.interp.decoder import Decoder
from replications.circuit_tracing.frozen import FrozenPass

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@torch.no_grad()
def freeze_prompt(bridge: "TransformerBridge", tokens: Int[Tensor, " pos"]) -> FrozenPass:
    """One pass in float32. UserError for a prompt of fewer than two tokens, or one longer than the model's context."""
    if len(tokens) < 2:
        raise UserError(
            "a graph needs a prompt of at least two tokens: the first one, the attention sink, has no features"
        )
    decoder = Decoder(bridge, len(tokens))  # refuses prompts beyond the context, and models that it does not repeat
    patterns: list[Tensor] = []

    def keep(layer: int, value: Tensor) -> None:
        patterns.append(value[0])

    mask = torch.ones_like(tokens, dtype=torch.bool)
    cache = decoder.forward(tokens[None], mask[None], keep=True, patterns=keep)
    cfg, blocks = bridge.cfg, bridge.blocks
    centred = not str(cfg.normalization_type).startswith("RMS")

    def scale(x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n"]:
        x = x - x.mean(-1, keepdim=True) if centred else x
        found: Tensor = (x.square().mean(-1) + cfg.eps).sqrt()
        return found

    pre, mid = torch.stack(cache.resid_pre)[:, 0], torch.stack(cache.resid_mid)[:, 0]
    final = cache.final[0]
    W_V = torch.stack([repeat(one, "kv d e -> (kv g) d e", g=decoder.group) for one in decoder.W_V])
    W_O = torch.stack(decoder.W_O)
    W_U = bridge.unembed.W_U.detach()
    rows = range(decoder.n_layers)
    mlp_in = torch.stack([decoder.norm(layer, 1, mid[layer]) for layer in rows])
    mlp_out = torch.cat([pre[1:], final[None]]) - mid
    gains = [torch.stack([getattr(block, name).weight.detach() for block in blocks]) for name in ("ln1", "ln2")]
    end = bridge.ln_final
    gain, shift = end.weight.detach(), _bias(end)
    b_V = [getattr(block.attn, "b_V", None) for block in blocks]
    bias_attn = torch.stack([
        _values_bias(_bias(blocks[at].ln1), W_V[at], W_O[at], b_V[at], decoder) + decoder.output_bias(at) for at in rows
    ])  # fmt: skip
    last = final[-1] - final[-1].mean() if centred else final[-1]
    logits = (last / scale(final[-1]) * gain + shift) @ W_U
    return FrozenPass(
        tokens=tokens, embeddings=pre[0], patterns=torch.stack(patterns), W_V=W_V, W_O=W_O, gain_attn=gains[0],
        gain_mlp=gains[1], gain_final=gain, scale_attn=scale(pre), scale_mlp=scale(mid), scale_final=scale(final),
        bias_attn=bias_attn, bias_mlp=torch.stack([_bias(block.ln2) for block in blocks]), bias_final=shift,
        mlp_in=mlp_in, mlp_out=mlp_out, W_U=W_U, logits=logits, centred=centred,
    )  # fmt: skip


def _bias(norm: object) -> Float[Tensor, " d_model"]:
    found = getattr(norm, "bias", None)
    weight: Tensor = norm.weight  # type: ignore[attr-defined]
    return torch.zeros_like(weight).detach() if found is None else found.detach()


def _values_bias(
    shift: Float[Tensor, " d_model"],
    W_V: Float[Tensor, "head d_model d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    b_V: Tensor | None,
    decoder: Decoder,
) -> Float[Tensor, " d_model"]:
    """What the norm's and the values' biases become behind the output matrix; patterns sum to 1."""
    v = einsum(shift, W_V, "d, head d e -> head e")
    if b_V is not None:
        v = v + repeat(b_V.detach().reshape(decoder.n_kv_heads, -1), "kv e -> (kv g) e", g=decoder.group)
    return einsum(v, W_O, "head e, head e d -> d")
