"""The one-layer transformer: stored weights, its MLP's activations, and the loss with these replaced."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.saes.harvest import batched
from common.toys.settings import Architecture
from common.toys.transformer import Visit, Weights, forward, initial_weights, token_losses
from replications.monosemanticity.settings import Model, Text

HOOK = "blocks.0.mlp.hook_post"
BATCH = 32  # windows


class Models(NamedTuple):
    """All models of a run, one instance per seed."""

    shape: Architecture
    seeds: list[int]
    weights: Weights

    def one(self, place: int) -> Weights:
        """The weights of one model, with an instance axis of 1."""
        return {name: value[place : place + 1] for name, value in self.weights.items()}

    def untrained(self) -> "Models":
        """The same models before training."""
        return self._replace(weights=initial_weights(self.shape, self.seeds))


def architecture(model: Model, text: Text) -> Architecture:
    """Deviation: rotary positions and LayerNorm without parameters; the paper's model has learned positions."""
    return Architecture(
        n_layers=1, keys="plain", positions="rotary", mlp="relu", d_model=model.d_model, n_heads=model.n_heads,
        d_head=model.d_head, d_vocab=text.d_vocab, n_ctx=text.length,
    )  # fmt: skip


def save_models(path: Path, models: Models) -> None:
    """One safetensors file; the shape is in its metadata."""
    about = {"shape": models.shape.model_dump_json(), "seeds": json.dumps(models.seeds)}
    with atomic(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in models.weights.items()}, temporary, about)


def load_models(path: Path) -> Models:
    """What `save_models` wrote."""
    with safe_open(path, framework="pt") as handle:
        about = handle.metadata()
        weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return Models(Architecture.model_validate_json(about["shape"]), json.loads(about["seeds"]), weights)


@torch.no_grad()
def activations(
    weights: Weights, tokens: Int[Tensor, "window pos"], shape: Architecture
) -> Float[Tensor, "window pos d_mlp"]:
    """The neurons of one model (instance axis of 1). The unembedding is cut off: it would cost most of the time."""
    short = {**weights, "unembed.W_U": weights["unembed.W_U"][..., :1]}
    found: list[Tensor] = []

    def visit(name: str, value: Tensor) -> Tensor:
        if name == HOOK:
            found.append(value[0].cpu())
        return value

    for rows in batched(len(tokens), BATCH):
        forward(short, tokens[None, rows].to(weights["embed.W_E"].device), shape, visit=visit)
    return torch.cat(found)


@torch.no_grad()
def losses(
    weights: Weights,
    tokens: Int[Tensor, "window pos"],
    shape: Architecture,
    instead: Float[Tensor, "window rest d_mlp"] | None = None,
) -> Float[Tensor, "window next"]:
    """Loss of every next token in nats; with `instead`, which replaces the neurons of all positions but the first."""
    found = []
    for rows in batched(len(tokens), BATCH):
        part = tokens[None, rows].to(weights["embed.W_E"].device)
        visit = None if instead is None else _replacing(instead[None, rows].to(part.device))
        logits = forward(weights, part, shape, visit=visit)
        found.append(token_losses(logits, part)[0].cpu())
    return torch.cat(found)


def _replacing(instead: Float[Tensor, "instance window rest d_mlp"]) -> Visit:
    """Puts activations in place of the model's own."""

    def visit(name: str, value: Tensor) -> Tensor:
        return torch.cat([value[:, :, :1], instead], dim=2) if name == HOOK else value

    return visit
