"""Small transformers, many at once: every weight has a leading instance axis, and instances never interact.

The model is TransformerLens' `HookedTransformer` with normalisation `LNPre` and no biases (a test compares the logits):
LayerNorm without parameters before attention, MLP and unembedding, causal attention, optional ReLU MLP. Additions:

- `positions="shortformer"` (Press et al. 2020; Olsson et al. 2022): positional vectors are added to the normalised
  input of queries and keys in every layer, never to values or the residual stream. `"standard"` adds them to the
  embedding.
- `keys="smeared"`: each head's key is sigmoid(a) k_t + (1 - sigmoid(a)) k_{t-1} with a trainable a per head; the first
  key is untouched (Olsson et al. 2022, "smeared keys").

Quantities in the cache have TransformerLens' hook names.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, layer_norm, relu, scaled_dot_product_attention

from common.network_settings import Architecture

Weights = dict[str, Tensor]
EPSILON = 1e-5


class Ablation(NamedTuple):
    """Which heads keep their output (1) or lose it (0), and patterns, by hook name, put in place of the model's own."""

    keep: Float[Tensor, "instance layer head"]
    patterns: Weights


def initial_weights(shape: Architecture, seeds: list[int]) -> Weights:
    """One instance per seed. Embeddings and positions N(0, 1), matrices N(0, 1 / inputs), smear parameters 0."""
    d, h, e = shape.d_model, shape.n_heads, shape.d_head
    sizes: dict[str, tuple[tuple[int, ...], float]] = {
        "embed.W_E": ((shape.d_vocab, d), 1.0),
        "pos_embed.W_pos": ((shape.n_ctx, d), 1.0),
    }
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}"
        for name in ("W_Q", "W_K", "W_V"):
            sizes[f"{block}.attn.{name}"] = ((h, d, e), d**-0.5)
        sizes[f"{block}.attn.W_O"] = ((h, e, d), (h * e) ** -0.5)
        if shape.keys == "smeared":
            sizes[f"{block}.attn.smear"] = ((h,), 0.0)
        if shape.mlp == "relu":
            sizes[f"{block}.mlp.W_in"] = ((d, 4 * d), d**-0.5)
            sizes[f"{block}.mlp.W_out"] = ((4 * d, d), (4 * d) ** -0.5)
    sizes["unembed.W_U"] = ((d, shape.d_vocab), d**-0.5)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return {
        name: torch.stack([scale * torch.randn(size, generator=generator) for generator in generators])
        for name, (size, scale) in sizes.items()
    }


def forward(
    weights: Weights,
    tokens: Int[Tensor, "instance batch pos"],
    shape: Architecture,
    *,
    cache: Weights | None = None,
    ablation: Ablation | None = None,
) -> Float[Tensor, "instance batch pos d_vocab"]:
    """Logits. A `cache` is filled with patterns, head outputs before W_O (`hook_z`) and the final residual stream.

    Without cache and ablation, attention runs in torch's fused kernel.
    """
    residual = _take(weights["embed.W_E"], tokens)
    positions = weights["pos_embed.W_pos"][:, None, : tokens.shape[2]]
    if shape.positions == "standard":
        residual = residual + positions
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}"
        own = {name.removeprefix(f"{block}."): value for name, value in weights.items() if name.startswith(f"{block}.")}
        normal = _normalise(residual)
        addressed = normal + positions if shape.positions == "shortformer" else normal
        q, k, v = (
            _project(source, own[f"attn.{name}"])
            for name, source in (("W_Q", addressed), ("W_K", addressed), ("W_V", normal))
        )
        if shape.keys == "smeared":
            k = smear(k, own["attn.smear"])
        if cache is None and ablation is None:
            z = _fused(q, k, v, tokens.shape[1])
        else:
            name = f"{block}.attn.hook_pattern"
            given = None if ablation is None else ablation.patterns.get(name)
            pattern = causal_pattern(q, k) if given is None else given
            z = pattern @ v
            if ablation is not None:
                z = z * ablation.keep[:, None, layer, :, None, None]
            if cache is not None:
                cache[name] = pattern
                cache[f"{block}.attn.hook_z"] = rearrange(z, "instance batch head pos d -> instance batch pos head d")
        z = rearrange(z, "instance batch head pos d_head -> instance (batch pos) (head d_head)")
        W_O = rearrange(own["attn.W_O"], "instance head d_head d_model -> instance (head d_head) d_model")
        residual = residual + rearrange(
            z @ W_O, "instance (batch pos) d -> instance batch pos d", batch=tokens.shape[1]
        )
        if shape.mlp == "relu":
            hidden = relu(_apply(_normalise(residual), own["mlp.W_in"]))
            residual = residual + _apply(hidden, own["mlp.W_out"])
    if cache is not None:
        cache[f"blocks.{shape.n_layers - 1}.hook_resid_post"] = residual
    return _apply(_normalise(residual), weights["unembed.W_U"])


def _fused(q: Tensor, k: Tensor, v: Tensor, batch: int) -> Float[Tensor, "instance batch head pos d_head"]:
    q, k, v = (rearrange(x, "instance batch head pos d_head -> (instance batch) head pos d_head") for x in (q, k, v))
    z = scaled_dot_product_attention(q, k, v, is_causal=True)
    return rearrange(z, "(instance batch) head pos d_head -> instance batch head pos d_head", batch=batch)


def causal_pattern(
    q: Float[Tensor, "*batch pos d_head"], k: Float[Tensor, "*batch pos d_head"]
) -> Float[Tensor, "*batch pos pos"]:
    """Softmax of scaled scores over the present and the past."""
    scores = (q @ k.mT) / math.sqrt(q.shape[-1])
    future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)


def smear(
    k: Float[Tensor, "instance batch head pos d_head"], a: Float[Tensor, "instance head"]
) -> Float[Tensor, "instance batch head pos d_head"]:
    """sigmoid(a) k_t + (1 - sigmoid(a)) k_{t-1}; the first key stays."""
    own = torch.sigmoid(a)[:, None, :, None, None]
    return torch.cat([k[..., :1, :], own * k[..., 1:, :] + (1 - own) * k[..., :-1, :]], dim=-2)


def token_losses(
    logits: Float[Tensor, "instance batch pos d_vocab"], tokens: Int[Tensor, "instance batch pos"]
) -> Float[Tensor, "instance batch next"]:
    """Cross entropy in nats of predicting token t + 1 at position t."""
    flat = rearrange(logits[:, :, :-1], "instance batch pos d_vocab -> (instance batch pos) d_vocab")
    target = rearrange(tokens[:, :, 1:], "instance batch pos -> (instance batch pos)")
    losses = cross_entropy(flat, target, reduction="none")
    return rearrange(losses, "(i b p) -> i b p", i=tokens.shape[0], b=tokens.shape[1])


def _normalise(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    return layer_norm(x, x.shape[-1:], eps=EPSILON)


def _take(
    table: Float[Tensor, "instance d_vocab d_model"], tokens: Int[Tensor, "instance batch pos"]
) -> Float[Tensor, "instance batch pos d_model"]:
    shifted = tokens + table.shape[1] * torch.arange(len(table), device=tokens.device)[:, None, None]
    return embedding(shifted, rearrange(table, "instance d_vocab d -> (instance d_vocab) d"))


def _apply(
    x: Float[Tensor, "instance batch pos inner"], W: Float[Tensor, "instance inner outer"]
) -> Float[Tensor, "instance batch pos outer"]:
    flat = rearrange(x, "instance batch pos inner -> instance (batch pos) inner") @ W
    return rearrange(flat, "instance (batch pos) outer -> instance batch pos outer", batch=x.shape[1])


def _project(
    x: Float[Tensor, "instance batch pos d_model"], W: Float[Tensor, "instance head d_model d_head"]
) -> Float[Tensor, "instance batch head pos d_head"]:
    flat = _apply(x, rearrange(W, "instance head d_model d_head -> instance d_model (head d_head)"))
    return rearrange(flat, "instance batch pos (head d_head) -> instance batch head pos d_head", head=W.shape[1])
