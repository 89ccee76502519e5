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

from common.interp.decoder import Decoder, masked_softmax

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Head = tuple[int, int]
FIRST = 1  # position from which heads are removed


class Pass(NamedTuple):
    """Loss of every next token, and attention patterns by layer where they were asked for."""

    losses: Float[Tensor, "batch next"]
    patterns: dict[int, Float[Tensor, "batch head query key"]]


def run_pass(
    bridge: "TransformerBridge",
    tokens: Int[Tensor, "batch pos"],
    *,
    removed: list[Head] | None = None,
    keep: list[int] | None = None,
    given: dict[int, Tensor] | None = None,
) -> Pass:
    """One forward pass. Heads in `removed` write nothing from `FIRST` on; patterns of the layers in `keep` are
    returned. Those in `given` replace the model's own: with the patterns of an intact pass the ablation is
    pattern-preserving.
    """
    kept: dict[int, Tensor] = {}
    hooks: list[tuple[str, Callable[..., Any]]] = []

    def keeping(layer: int) -> Callable[..., None]:
        def hook(value: Tensor, hook: object) -> None:
            kept[layer] = value.detach().clone()

        return hook

    def giving(layer: int) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: object) -> Tensor:
            return (given or {})[layer]

        return hook

    def removing(heads: list[int]) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: object) -> Tensor:
            changed = value.clone()
            changed[:, FIRST:, heads] = 0
            return changed

        return hook

    hooks += [(f"blocks.{layer}.attn.hook_pattern", giving(layer)) for layer in given or {}]
    hooks += [(f"blocks.{layer}.attn.hook_pattern", keeping(layer)) for layer in keep or []]
    for layer in sorted({layer for layer, _ in removed or []}):
        hooks.append((f"blocks.{layer}.attn.hook_z", removing([h for one, h in removed or [] if one == layer])))
    with torch.no_grad():
        logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)
        losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return Pass(losses, kept)


def residual_before(
    bridge: "TransformerBridge", layer: int, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream that enters one layer; the layers above it are not run."""
    seen: list[Tensor] = []
    hooks = [(f"blocks.{layer}.hook_resid_pre", lambda value, hook: seen.append(value))]
    with torch.no_grad():
        bridge.run_with_hooks(tokens, fwd_hooks=hooks, stop_at_layer=layer + 1)
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
