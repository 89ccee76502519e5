"""The small transformers of the two-hop task: reading one, freezing its passes, and running it with edited MLP outputs.

An edit is a vector added to the output of an MLP at one position. That is the same as adding it to the residual stream
behind the block. Attention is either frozen, its patterns those of the clean pass, or free; norms are always free.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm

from common.saes.sae import About, Sae
from common.toys.settings import Architecture
from common.toys.transformer import EPSILON, Ablation, Weights, forward
from replications.circuit_tracing.frozen import FrozenPass
from replications.circuit_tracing.settings import Model, Task
from replications.circuit_tracing.task import vocabulary

NAME = "two-hop"


def architecture(model: Model, task: Task) -> Architecture:
    """Shape of the models: LayerNorm without parameters, rotary positions, ReLU MLPs four times as wide."""
    return Architecture(
        n_layers=model.n_layers, keys="plain", positions="rotary", mlp="relu", d_model=model.d_model,
        n_heads=model.n_heads, d_head=model.d_model // model.n_heads, d_vocab=len(vocabulary(task)), n_ctx=4,
    )  # fmt: skip


def one(weights: Weights, place: int) -> Weights:
    """One instance, its axis kept."""
    return {name: value[place : place + 1] for name, value in weights.items()}


class Reading(NamedTuple):
    """What one model computes on prompts [batch pos]."""

    residual: Float[Tensor, "layer batch pos d_model"]
    """before each block"""
    middle: Float[Tensor, "layer batch pos d_model"]
    """behind attention"""
    mlp_in: Float[Tensor, "layer batch pos d_model"]
    mlp_out: Float[Tensor, "layer batch pos d_model"]
    """before any edit"""
    patterns: Float[Tensor, "layer batch head pos pos"]
    final: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "batch pos d_vocab"]


def read(
    weights: Weights,
    tokens: Int[Tensor, "batch pos"],
    shape: Architecture,
    *,
    added: Float[Tensor, "layer batch pos d_model"] | None = None,
    patterns: Float[Tensor, "layer batch head pos pos"] | None = None,
) -> Reading:
    """One model (instance axis 1), with vectors added to its MLP outputs and, if given, attention patterns held."""
    seen: dict[str, Tensor] = {}

    def visit(name: str, value: Tensor) -> Tensor:
        if name.endswith("hook_resid_post") and added is not None:
            value = value + added[int(name.split(".")[1])][None]
        seen[name] = value
        return value

    names = [f"blocks.{layer}" for layer in range(shape.n_layers)]
    held = {} if patterns is None else {f"{one}.attn.hook_pattern": patterns[at][None] for at, one in enumerate(names)}
    keep = torch.ones(1, shape.n_layers, shape.n_heads)
    logits = forward(weights, tokens[None], shape, visit=visit, ablation=Ablation(keep, held) if held else None)
    outputs = torch.stack([
        (seen[f"{one}.mlp.hook_post"] @ weights[f"{one}.mlp.W_out"][:, None])[0] for one in names
    ])  # fmt: skip
    post = torch.stack([seen[f"{one}.hook_resid_post"][0] for one in names])
    middle = post - outputs - (0 if added is None else added)
    return Reading(
        torch.stack([seen[f"{one}.hook_resid_pre"][0] for one in names]),
        middle,
        normalise(middle),
        outputs,
        torch.stack([seen[f"{one}.attn.hook_pattern"][0] for one in names]),
        post[-1],
        logits[0],
    )


def freeze(
    weights: Weights, reading: Reading, tokens: Int[Tensor, "batch pos"], shape: Architecture, at: int
) -> FrozenPass:
    """The frozen pass of prompt `at`."""
    layers, d = shape.n_layers, shape.d_model

    def stacked(name: str) -> Tensor:
        return torch.stack([weights[f"blocks.{layer}.attn.{name}"][0] for layer in range(layers)])

    ones, zeros = torch.ones(layers, d), torch.zeros(layers, d)
    return FrozenPass(
        tokens=tokens[at], embeddings=weights["embed.W_E"][0][tokens[at]], patterns=reading.patterns[:, at],
        W_V=stacked("W_V"), W_O=stacked("W_O"), gain_attn=ones, gain_mlp=ones, gain_final=ones[0],
        scale_attn=scale(reading.residual[:, at]), scale_mlp=scale(reading.middle[:, at]),
        scale_final=scale(reading.final[at]), bias_attn=zeros, bias_mlp=zeros, bias_final=zeros[0],
        mlp_in=reading.mlp_in[:, at], mlp_out=reading.mlp_out[:, at], W_U=weights["unembed.W_U"][0],
        logits=reading.logits[at, -1], centred=True,
    )  # fmt: skip


def neurons(weights: Weights, shape: Architecture) -> list[Sae]:
    """The MLPs as dictionaries of their own neurons, which reconstruct them exactly."""
    found = []
    for layer in range(shape.n_layers):
        W_in, W_out = (weights[f"blocks.{layer}.mlp.{name}"][0] for name in ("W_in", "W_out"))
        about = About("neurons", NAME, hook(layer), hook_out(layer))
        nothing = torch.zeros(W_in.shape[1])
        found.append(Sae(about, "relu", W_in, nothing, W_out, torch.zeros(W_out.shape[1]), centred=False))
    return found


def hook(layer: int) -> str:
    """Where a transcoder reads."""
    return f"blocks.{layer}.ln2.hook_normalized"


def hook_out(layer: int) -> str:
    """Where it writes."""
    return f"blocks.{layer}.hook_mlp_out"


def scale(x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n"]:
    """Denominator of LayerNorm."""
    return (x.var(-1, unbiased=False) + EPSILON).sqrt()


def normalise(x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """LayerNorm without parameters."""
    return layer_norm(x, x.shape[-1:], eps=EPSILON)
