"""What is measured on held-out sequences while a model trains and afterwards: losses, head scores, roles of heads.

In-context gain: the unigram oracle's loss minus the model's, mean over the targets that an earlier copy determines. At
0 a model knows which tokens have occurred but not in which order; copying without error gives the oracle's whole loss.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm

from common.interp.head_scores import HeadWeights, copying, duplicate_token, prefix_matching, previous_token
from common.toys.settings import Architecture
from common.toys.transformer import Ablation, Weights, forward, token_losses
from replications.induction_heads.data import HeldOut

SHARE_OF_BEST = 0.5  # a head has a role if its score is at least this share of the best head's
PATH_TOKENS = 512  # entries of the per-token loss vector whose path through training is drawn


def losses_on(
    weights: Weights,
    tokens: Int[Tensor, "batch pos"],
    shape: Architecture,
    *,
    cache: Weights | None = None,
    ablation: Ablation | None = None,
) -> Float[Tensor, "instance batch next"]:
    """Loss of every token, for every instance, in one forward pass, whose cache can be kept and heads removed."""
    every = tokens.expand(len(weights["embed.W_E"]), -1, -1)
    return token_losses(forward(weights, every, shape, cache=cache, ablation=ablation), every)


def gain(losses: Float[Tensor, "instance batch next"], held: HeldOut) -> Float[Tensor, " instance"]:
    """In-context gain in nats."""
    repeated = held.repeated.to(losses.dtype)
    return ((held.oracle - losses) * repeated).sum((1, 2)) / repeated.sum()


def loss_on_repeats(losses: Float[Tensor, "instance batch next"], held: HeldOut) -> Float[Tensor, " instance"]:
    """Mean loss of the targets that an earlier copy determines."""
    repeated = held.repeated.to(losses.dtype)
    return (losses * repeated).sum((1, 2)) / repeated.sum()


def patterns(cache: Weights, shape: Architecture) -> Float[Tensor, "instance layer batch head query key"]:
    """All attention patterns of a cache."""
    return torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(shape.n_layers)], 1)


def scores(found: Float[Tensor, "instance layer batch head query key"], held: HeldOut) -> Weights:
    """Head scores [instance layer head] on one-shot sequences."""
    return {
        "prefix": prefix_matching(found, held.tokens),
        "previous": previous_token(found),
        "duplicate": duplicate_token(found, held.tokens),
    }


def head_weights(weights: Weights, shape: Architecture) -> HeadWeights:
    """All heads, [instance layer head ...]."""
    names = ("W_Q", "W_K", "W_V", "W_O")
    return HeadWeights(
        *(torch.stack([weights[f"blocks.{layer}.attn.{name}"] for layer in range(shape.n_layers)], 1) for name in names)
    )


def embedding(weights: Weights) -> Float[Tensor, "instance layer head d_vocab d_model"]:
    """The token embedding, with axes to broadcast over layers and heads.

    It is normalised token by token, because every read goes through LayerNorm.
    """
    table = weights["embed.W_E"]
    return layer_norm(table, table.shape[-1:])[:, None, None]


def written(weights: Weights, shape: Architecture) -> Float[Tensor, "instance layer head d_vocab d_vocab"]:
    """What attending to each token adds to the logit of each token, along the direct path of every head."""
    one = head_weights(weights, shape)
    return (embedding(weights) @ one.W_V) @ (one.W_O @ weights["unembed.W_U"][:, None, None])


def track(weights: Weights, once: HeldOut, reading: HeldOut, shape: Architecture) -> Weights:
    """All that is recorded along training: [instance ...] each."""
    cache: Weights = {}
    on_once, on_reading = losses_on(weights, once.tokens, shape, cache=cache), losses_on(weights, reading.tokens, shape)
    return {
        "gain": gain(on_once, once),
        "loss": on_reading.mean((1, 2)),
        "repeat_loss": loss_on_repeats(on_once, once),
        "token_loss": on_reading.flatten(1)[:, :: max(1, on_reading[0].numel() // PATH_TOKENS)][:, :PATH_TOKENS],
        "copying": copying(written(weights, shape)),
        **scores(patterns(cache, shape), once),
    }


class Roles(NamedTuple):
    """Which heads play which role. `others`: as many heads as `induction`, those with the lowest prefix scores."""

    induction: Bool[Tensor, "instance layer head"]
    previous: Bool[Tensor, "instance layer head"]
    others: Bool[Tensor, "instance layer head"]
    other_first: Bool[Tensor, "instance layer head"]


def roles(weights: Weights, shape: Architecture, chosen_on: HeldOut) -> Roles:
    """Induction heads: prefix score at least half the best. Previous-token heads: likewise, in the first layer."""
    cache: Weights = {}
    losses_on(weights, chosen_on.tokens, shape, cache=cache)
    found = scores(patterns(cache, shape), chosen_on)
    prefix, previous = found["prefix"], found["previous"].clone()
    previous[:, 1:] = 0
    induction = prefix >= SHARE_OF_BEST * prefix.amax((1, 2), keepdim=True)
    leading = previous >= SHARE_OF_BEST * previous.amax((1, 2), keepdim=True)
    rest = torch.where(leading, torch.inf, previous)
    rest[:, 1:] = torch.inf
    return Roles(
        induction,
        leading,
        lowest(torch.where(induction, torch.inf, prefix), induction.sum((1, 2))),
        lowest(rest, leading.sum((1, 2))),
    )


def lowest(score: Float[Tensor, "instance layer head"], count: Tensor) -> Bool[Tensor, "instance layer head"]:
    """The `count` heads of each instance with the lowest finite score."""
    flat = score.flatten(1)
    rank = flat.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    chosen = (rank < count[:, None]) & torch.isfinite(flat)
    return rearrange(chosen, "instance (layer head) -> instance layer head", layer=score.shape[1])


def without(heads: Bool[Tensor, "instance layer head"], cache: Weights | None = None) -> Ablation:
    """Removes the output of some heads. With the cache of an intact run, all patterns stay as they were there."""
    frozen = {name: value for name, value in (cache or {}).items() if name.endswith("hook_pattern")}
    return Ablation(1.0 - heads.float(), frozen)
