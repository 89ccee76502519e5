"""Trained models of `common.toys.transformer` as TransformerLens models, so that its tools work on them.

`load_in_bridge` puts one instance into TransformerLens' own native model; that model knows standard and rotary
positions and plain keys. `InstanceModel` is for every architecture, shortformer positions and smeared keys included. It
is a small module around our forward pass with the same hook names, so that `run_with_hooks` and `run_with_cache` work.
Where both exist they agree (tests).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from common.core.errors import UserError
from common.toys.settings import Architecture
from common.toys.transformer import Weights, forward


def load_in_bridge(weights: Weights, shape: Architecture, instance: int = 0) -> TransformerBridge:
    """One instance in TransformerLens' native model, with the same logits. UserError for what that model lacks."""
    if shape.positions == "shortformer" or shape.keys == "smeared":
        raise UserError(
            "TransformerLens' native model has no shortformer positions and no smeared keys; "
            "use tests.bridging.InstanceModel, which has the same hook names"
        )
    cfg = TransformerBridgeConfig(
        n_layers=shape.n_layers, d_model=shape.d_model, n_heads=shape.n_heads, d_head=shape.d_head,
        d_vocab=shape.d_vocab, n_ctx=shape.n_ctx, d_mlp=4 * shape.d_model, act_fn="relu", normalization_type="LNPre",
        attn_only=shape.mlp == "none", positional_embedding_type=shape.positions, architecture="TransformerLensNative",
    )  # fmt: skip
    bridge: TransformerBridge = TransformerBridge.boot_native(cfg)
    bridge.load_state_dict(_native(weights, bridge.state_dict(), instance))
    return bridge


def _native(weights: Weights, like: Weights, instance: int) -> Weights:
    """Weights under the bridge's names: matrices transposed, heads side by side, no biases."""
    found = {name: torch.zeros_like(value) for name, value in like.items()}
    for name, every in weights.items():
        value = every[instance]
        if ".attn." in name:
            block, letter = name.split(".attn.W_")
            matrix = value.flatten(0, 1) if letter == "O" else value.movedim(0, 1).flatten(1)
            found[f"{block}.attn.{letter.lower()}.weight"] = matrix.T
        elif ".mlp." in name:
            found[name.replace("W_", "") + ".weight"] = value.T
        else:
            part = name.split(".")[0]
            found[f"{part}.weight"] = value.T if part == "unembed" else value
    return found


class InstanceModel(HookedRootModule):  # type: ignore[misc]
    """One instance of any architecture, with TransformerLens' hook names. `model(tokens)` gives logits."""

    def __init__(self, weights: Weights, shape: Architecture, instance: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.weights = {name: value[instance : instance + 1].detach() for name, value in weights.items()}
        self.hook_embed = HookPoint()
        if shape.positions != "rotary":
            self.hook_pos_embed = HookPoint()
        self.blocks = nn.ModuleList(_block(shape) for _ in range(shape.n_layers))
        self.setup()

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits; every quantity on the way passes its hook point."""

        def visit(name: str, value: Tensor) -> Tensor:
            hooked: Tensor = self.hook_dict[name](value[0])
            return hooked[None]

        return forward(self.weights, tokens[None], self.shape, visit=visit)[0]


def _block(shape: Architecture) -> nn.Module:
    parts: dict[str, Any] = {name: HookPoint() for name in ("hook_resid_pre", "hook_resid_post")}
    parts["attn"] = nn.ModuleDict({f"hook_{part}": HookPoint() for part in ("q", "k", "v", "pattern", "z")})
    if shape.mlp != "none":
        parts["mlp"] = nn.ModuleDict({"hook_post": HookPoint()})
    return nn.ModuleDict(parts)
