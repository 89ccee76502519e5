"""Small transformers, many at once: every weight has a leading instance axis, and instances never interact.

The model is TransformerLens' `HookedTransformer` with normalisation `LNPre` and no biases (a test compares the logits).
It has LayerNorm without parameters before attention, MLP and unembedding, causal attention, and optionally a ReLU MLP.
Additions:

- `positions="shortformer"` (Press et al. 2020; Olsson et al. 2022): positional vectors are added to the normalised
  input of queries and keys in every layer. They never reach values or the residual stream. `"standard"` adds them to
  the embedding.
- `positions="rotary"`: queries and keys are rotated in adjacent pairs (Su et al. 2021), as in the native model too.
- `keys="smeared"`: each head's key is sigmoid(a) k_t + (1 - sigmoid(a)) k_{t-1} with a trainable a per head. The first
  key is untouched (Olsson et al. 2022, "smeared keys"). `"smeared_two_back"` mixes with k_{t-2}: as many
  parameters, and no use for prefix matching, since the token that is mixed in is not the one before.

Quantities in the cache have TransformerLens' hook names.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, layer_norm, pad, relu, scaled_dot_product_attention

from common.toys.settings import Architecture

Weights = dict[str, Tensor]
Visit = Callable[[str, Tensor], Tensor]
"""Given a hook name and the value there, its instance axis first, returns the value to go on with."""
EPSILON = 1e-5
NOTHING = -100
ROTARY_BASE = 10_000
SMEARED_BY = {"smeared": 1, "smeared_two_back": 2}
"""How many tokens back the key lies that is mixed in."""


class Ablation(NamedTuple):
    """Which heads keep their output (1) or lose it (0), and patterns, by hook name, put in place of the model's own."""

    keep: Float[Tensor, "instance layer head"]
    patterns: Weights


def initial_weights(shape: Architecture, seeds: list[int]) -> Weights:
    """One instance per seed. Embeddings and positions N(0, 1), matrices N(0, 1 / inputs), smear parameters 0."""
    d, h, e = shape.d_model, shape.n_heads, shape.d_head
    sizes: dict[str, tuple[tuple[int, ...], float]] = {
        "embed.W_E": ((shape.d_vocab, d), 1.0),
    }
    if shape.positions != "rotary":
        sizes["pos_embed.W_pos"] = ((shape.n_ctx, d), 1.0)
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}"
        for name in ("W_Q", "W_K", "W_V"):
            sizes[f"{block}.attn.{name}"] = ((h, d, e), d**-0.5)
        sizes[f"{block}.attn.W_O"] = ((h, e, d), (h * e) ** -0.5)
        if shape.keys in SMEARED_BY:
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
    visit: Visit | None = None,
) -> Float[Tensor, "instance batch pos d_vocab"]:
    """Logits. A `cache` is filled with patterns, head outputs before W_O (`hook_z`) and the final residual stream.

    `visit` sees, and may replace, every quantity that has a hook name. Without cache, ablation and visit, attention
    runs in torch's fused kernel.
    """
    fused = cache is None and ablation is None and visit is None
    visit = visit or _unchanged
    residual = visit("hook_embed", _take(weights["embed.W_E"], tokens))
    if shape.positions != "rotary":
        positions = visit("hook_pos_embed", weights["pos_embed.W_pos"][:, None, : tokens.shape[2]])
    if shape.positions == "standard":
        residual = residual + positions
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}"
        own = {name.removeprefix(f"{block}."): value for name, value in weights.items() if name.startswith(f"{block}.")}
        residual = visit(f"{block}.hook_resid_pre", residual)
        normal = _normalise(residual)
        addressed = normal + positions if shape.positions == "shortformer" else normal
        q, k, v = (
            _project(source, own[f"attn.{name}"])
            for name, source in (("W_Q", addressed), ("W_K", addressed), ("W_V", normal))
        )
        q, k, v = (_seen(visit, f"{block}.attn.hook_{part}", x) for part, x in (("q", q), ("k", k), ("v", v)))
        if shape.positions == "rotary":
            q, k = rotate(q), rotate(k)
        if shape.keys in SMEARED_BY:
            k = smear(k, own["attn.smear"], SMEARED_BY[shape.keys])
        if fused:
            z = _fused(q, k, v, tokens.shape[1])
        else:
            name = f"{block}.attn.hook_pattern"
            given = None if ablation is None else ablation.patterns.get(name)
            pattern = visit(name, causal_pattern(q, k) if given is None else given)
            z = pattern @ v
            if ablation is not None:
                z = z * ablation.keep[:, None, layer, :, None, None]
            z = _seen(visit, f"{block}.attn.hook_z", z)
            if cache is not None:
                cache[name] = pattern
                cache[f"{block}.attn.hook_z"] = _swap(z)
        z = rearrange(z, "instance batch head pos d_head -> instance (batch pos) (head d_head)")
        W_O = rearrange(own["attn.W_O"], "instance head d_head d_model -> instance (head d_head) d_model")
        residual = residual + rearrange(
            z @ W_O, "instance (batch pos) d -> instance batch pos d", batch=tokens.shape[1]
        )
        if shape.mlp == "relu":
            hidden = visit(f"{block}.mlp.hook_post", relu(_apply(_normalise(residual), own["mlp.W_in"])))
            residual = residual + _apply(hidden, own["mlp.W_out"])
        residual = visit(f"{block}.hook_resid_post", residual)
    if cache is not None:
        cache[f"blocks.{shape.n_layers - 1}.hook_resid_post"] = residual
    return _apply(_normalise(residual), weights["unembed.W_U"])


def _fused(q: Tensor, k: Tensor, v: Tensor, batch: int) -> Float[Tensor, "instance batch head pos d_head"]:
    q, k, v = (rearrange(x, "instance batch head pos d_head -> (instance batch) head pos d_head") for x in (q, k, v))
    z = scaled_dot_product_attention(q, k, v, is_causal=True)
    return rearrange(z, "(instance batch) head pos d_head -> instance batch head pos d_head", batch=batch)


def rotate(x: Float[Tensor, "*batch pos d_head"]) -> Float[Tensor, "*batch pos d_head"]:
    """Turns the pair (2i, 2i + 1) at position t by the angle t / base^(2i / d_head)."""
    d_head = x.shape[-1]
    speed = ROTARY_BASE ** (-torch.arange(0, d_head, 2, device=x.device) / d_head)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * speed.repeat_interleave(2)
    even, odd = x[..., 0::2], x[..., 1::2]
    return x * angle.cos() + torch.stack((-odd, even), -1).flatten(-2) * angle.sin()


def causal_pattern(
    q: Float[Tensor, "*batch pos d_head"], k: Float[Tensor, "*batch pos d_head"]
) -> Float[Tensor, "*batch pos pos"]:
    """Softmax of scaled scores over the present and the past."""
    scores = (q @ k.mT) / math.sqrt(q.shape[-1])
    future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)


def smear(
    k: Float[Tensor, "instance batch head pos d_head"], a: Float[Tensor, "instance head"], back: int
) -> Float[Tensor, "instance batch head pos d_head"]:
    """sigmoid(a) k_t + (1 - sigmoid(a)) k_{t-back}; the first `back` keys stay."""
    own = torch.sigmoid(a)[:, None, :, None, None]
    return torch.cat([k[..., :back, :], own * k[..., back:, :] + (1 - own) * k[..., :-back, :]], dim=-2)


def token_losses(
    logits: Float[Tensor, "instance batch pos d_vocab"], tokens: Int[Tensor, "instance batch pos"]
) -> Float[Tensor, "instance batch next"]:
    """Cross entropy in nats of predicting token t + 1 at position t."""
    following = pad(tokens[:, :, 1:], (0, 1), value=NOTHING)  # rather than a copy of all logits but the last
    losses = cross_entropy(logits.flatten(0, 2), following.flatten(), reduction="none", ignore_index=NOTHING)
    return losses.reshape(tokens.shape)[:, :, :-1]


def _unchanged(name: str, value: Tensor) -> Tensor:
    return value


def _seen(
    visit: Visit, name: str, x: Float[Tensor, "instance batch head pos d_head"]
) -> Float[Tensor, "instance batch head pos d_head"]:
    """Shows a quantity to `visit` with its axes in TransformerLens' order."""
    return x if visit is _unchanged else _swap(visit(name, _swap(x)))


def _swap(x: Float[Tensor, "instance batch a b d_head"]) -> Float[Tensor, "instance batch b a d_head"]:
    return rearrange(x, "instance batch a b d_head -> instance batch b a d_head")


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
