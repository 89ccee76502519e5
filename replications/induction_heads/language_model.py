"""One language model under ablation: forward passes with some heads removed, all patterns recomputed or all kept.

The first position keeps its heads everywhere. Later tokens rest their attention on it whatever it is (an attention
sink). Without its own heads that rest would change, which has nothing to do with what the heads carry.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.interp.blocks import only_blocks
from common.interp.decoder import Decoder, masked_softmax

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Head = tuple[int, int]
FIRST = 1  # position from which heads are removed


class Pass(NamedTuple):
    """Loss of every next token; by layer, where asked for: attention patterns, and the residual stream before it."""

    losses: Float[Tensor, "batch next"]
    patterns: dict[int, Float[Tensor, "batch head query key"]]
    residuals: dict[int, Float[Tensor, "batch pos d_model"]]


def run_pass(
    bridge: "TransformerBridge",
    tokens: Int[Tensor, "batch pos"],
    *,
    removed: list[Head] | None = None,
    keep: list[int] | None = None,
    given: dict[int, Tensor] | None = None,
    intact: Pass | None = None,
) -> Pass:
    """One forward pass. Heads in `removed` write nothing from `FIRST` on; patterns of the layers in `keep`, and what
    these layers read, are returned. Patterns in `given` replace the model's own: with those of an intact pass the
    ablation is pattern-preserving. What an `intact` pass of the same tokens kept below all of `removed` is not computed
    again.
    """
    patterns: dict[int, Tensor] = {}
    residuals: dict[int, Tensor] = {}
    hooks: list[tuple[str, Callable[..., Any]]] = []
    start = min(layer for layer, _ in removed) if intact and removed else 0

    def keeping(kept: dict[int, Tensor], layer: int) -> Callable[..., None]:
        def hook(value: Tensor, hook: object) -> None:
            kept[layer] = value.detach().clone()

        return hook

    def giving(value: Tensor) -> Callable[..., Tensor]:
        return lambda _, hook: value

    def removing(heads: list[int]) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: object) -> Tensor:
            changed = value.clone()
            changed[:, FIRST:, heads] = 0
            return changed

        return hook

    if intact and start:
        hooks.append((f"blocks.{start}.hook_resid_pre", giving(intact.residuals[start])))
        patterns = {layer: intact.patterns[layer] for layer in keep or [] if layer < start}
    hooks += [(f"blocks.{layer}.attn.hook_pattern", giving(pattern)) for layer, pattern in (given or {}).items()]
    for layer in keep or []:
        hooks.append((f"blocks.{layer}.attn.hook_pattern", keeping(patterns, layer)))
        hooks.append((f"blocks.{layer}.hook_resid_pre", keeping(residuals, layer)))
    for layer in sorted({layer for layer, _ in removed or []}):
        hooks.append((f"blocks.{layer}.attn.hook_z", removing([h for one, h in removed or [] if one == layer])))
    holder, _, name = bridge.adapter.get_component_mapping()["blocks"].name.rpartition(".")
    with torch.no_grad(), only_blocks(bridge.original_model.get_submodule(holder), name, start):
        logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)
        losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return Pass(losses, patterns, residuals)


def residual_before(
    bridge: "TransformerBridge", layer: int, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream that enters one layer; the layers above it are not run."""
    seen: list[Tensor] = []
    place = f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"
    hooks = [(place, lambda value, hook: seen.append(value))]
    with torch.no_grad():
        bridge.run_with_hooks(tokens, fwd_hooks=hooks, stop_at_layer=max(layer, 1))
    return seen[0]


def losses_from(
    decoder: Decoder,
    layer: int,
    residual: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    removed: list[Head],
) -> Float[Tensor, "batch next"]:
    """Loss of every next token when the model goes on from `residual` before `layer`, without some heads.

    Many ablations in late layers share one pass through the early ones.
    """
    at = torch.arange(tokens.shape[1], device=tokens.device)
    allowed = at[:, None] >= at[None, :]
    x = residual
    with torch.no_grad():
        for here in range(layer, decoder.n_layers):
            normed = decoder.norm(here, 0, x)
            scores = decoder.scores(decoder.queries(here, normed, at), decoder.keys(here, normed, at))
            z = decoder.mix(masked_softmax(scores, allowed), decoder.values(here, normed))
            z[:, FIRST:, [head for one, head in removed if one == here]] = 0
            x = x + decoder.write(here, z)
            x = x + decoder.mlp(here, x)
        logits = decoder.bridge.ln_final(x[:, :-1]) @ decoder.bridge.W_U
        flat: Tensor = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return rearrange(flat, "(batch next) -> batch next", batch=len(tokens))


def write_norms(decoder: Decoder, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "layer head"]:
    """Norm of what each head adds to the residual stream, mean over all positions from `FIRST` on."""
    norms: list[Tensor] = []

    def note(layer: int, z: Tensor) -> Tensor:
        rows = z[:, FIRST:].flatten(0, 1)
        gram = decoder.W_O[layer] @ decoder.W_O[layer].mT
        norms.append(torch.einsum("nhe,hef,nhf->nh", rows, gram, rows).clamp(min=0).sqrt().mean(0))
        return z

    with torch.no_grad():
        decoder.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), note)
    return torch.stack(norms).cpu()
