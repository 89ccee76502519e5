"""The one-layer transformer: stored weights, what it reads on text, and its loss with the MLP's activations replaced.

Behind the MLP of the only layer nothing but the last LayerNorm and the unembedding follow. So a replacement of the
neurons needs no second pass: logits = LN(middle + x W_out) W_U, where `middle` is the residual stream before the MLP.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm

from common.core.files import atomic
from common.saes.harvest import batched
from common.toys.settings import Architecture
from common.toys.transformer import EPSILON, Weights, forward, initial_weights
from replications.monosemanticity.settings import Model, Text

HOOK = "blocks.0.mlp.hook_post"
BATCH = 64  # windows
TOKENS = 4096  # at a time through the unembedding


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


class Reading(NamedTuple):
    """What one model computes on every token that has a predecessor and a successor in its window."""

    x: Float[Tensor, "token d_mlp"]
    middle: Float[Tensor, "token d_model"]
    to_middle: Float[Tensor, "d_mlp d_model"]
    to_logits: Float[Tensor, "d_model d_vocab"]

    def logits(self, x: Float[Tensor, "token d_mlp"], rows: slice | Tensor = slice(None)) -> Float[Tensor, "token v"]:
        """Logits with the neurons of these tokens replaced by `x`."""
        resid = self.middle[rows] + x @ self.to_middle
        found: Tensor = layer_norm(resid, resid.shape[-1:], eps=EPSILON) @ self.to_logits
        return found

    def losses(self, x: Float[Tensor, "token d_mlp"], following: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
        """Loss of every next token in nats, in float64."""
        parts = [
            cross_entropy(self.logits(x[rows], rows), following[rows], reduction="none")
            for rows in batched(len(x), TOKENS)
        ]
        return torch.cat(parts).double()


def architecture(model: Model, text: Text) -> Architecture:
    """Deviation: rotary positions and LayerNorm without parameters; the paper's model has learned positions."""
    return Architecture(
        n_layers=1, keys="plain", positions="rotary", mlp="relu", d_model=model.d_model, n_heads=model.n_heads,
        d_head=model.d_head, d_vocab=text.d_vocab, n_ctx=text.length,
    )  # fmt: skip


def save_models(path: Path, models: Models) -> None:
    """One safetensors file; shape and seeds are in its metadata, as one entry: several would be in no fixed order."""
    about = json.dumps({"shape": models.shape.model_dump(), "seeds": models.seeds}, sort_keys=True)
    with atomic(path) as temporary:
        plain = {name: value.cpu().contiguous() for name, value in models.weights.items()}
        save_file(plain, temporary, {"about": about})


def load_models(path: Path) -> Models:
    """What `save_models` wrote."""
    with safe_open(path, framework="pt") as handle:
        about: dict[str, Any] = json.loads(handle.metadata()["about"])
        weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return Models(Architecture.model_validate(about["shape"]), about["seeds"], weights)


@torch.no_grad()
def read(weights: Weights, windows: Int[Tensor, "window pos"], shape: Architecture) -> Reading:
    """One model (instance axis of 1) on windows, without their first and last positions."""
    short = {**weights, "unembed.W_U": weights["unembed.W_U"][..., :1]}  # the logits would cost most of the time
    device, to_middle = weights["embed.W_E"].device, weights["blocks.0.mlp.W_out"][0]
    neurons: list[Tensor] = []
    middles: list[Tensor] = []

    def visit(name: str, value: Tensor) -> Tensor:
        if name == HOOK:
            neurons.append(_inner(value))
        if name == "blocks.0.hook_resid_post":
            middles.append(_inner(value) - neurons[-1] @ to_middle)
        return value

    for rows in batched(len(windows), BATCH):
        forward(short, windows[None, rows].to(device), shape, visit=visit)
    return Reading(torch.cat(neurons), torch.cat(middles), to_middle, weights["unembed.W_U"][0])


def _inner(value: Float[Tensor, "1 window pos d"]) -> Float[Tensor, "token d"]:
    return rearrange(value[0, :, 1:-1], "window pos d -> (window pos) d")
