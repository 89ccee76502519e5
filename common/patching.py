"""Exact path patching and activation patching at one position, batched over all senders.

Formula `path_patch_w22` (Wang et al. 2022, appendix B; here with the single-position shortcut). A sender is one head at
one position. Its output is replaced by its output on a partner prompt, and the change travels to the receivers along
every path that passes through no other head: all other heads are frozen at their clean values, MLPs and norms are
recomputed. The receivers (the final residual stream, or queries, keys or values of some heads at the same position)
are then set to what they received in an otherwise clean run.

The paper's recipe takes four forward passes for each sender. But with all heads frozen no information moves between
positions, so `receive` recomputes the MLPs of the patched position alone, for all senders in one sweep through the
layers; and a receiver at position p changes nothing before p, so `resume` recomputes positions p..END from the first
receiver's layer on, with keys and values of earlier positions taken from the clean run. A literal version of the four
passes in tests/common agrees to 1e-4.

Keys and values belong to key-value heads: with grouped-query attention the receivers of kind k and v are KV heads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import einops
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.decoder import Cache, Decoder

Kind = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Receivers:
    """Inputs of some heads at the senders' position. `heads` are (layer, head); for k and v, (layer, KV head)."""

    kind: Kind
    heads: tuple[tuple[int, int], ...]

    @property
    def layers(self) -> list[int]:
        """Layers with a receiver, each once, in order."""
        return sorted({layer for layer, _ in self.heads})


def kv_heads(heads: Iterable[tuple[int, int]], group: int) -> tuple[tuple[int, int], ...]:
    """The KV heads that serve these query heads, each once."""
    return tuple(sorted({(layer, head // group) for layer, head in heads}))


def at_position(x: Float[Tensor, "batch pos *rest"], position: Int[Tensor, " batch"]) -> Float[Tensor, "batch *rest"]:
    """The vector of each prompt at its own position."""
    found: Tensor = x[torch.arange(len(x), device=x.device), position]
    return found


def receive(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    position: Int[Tensor, " batch"],
    layers: Iterable[int],
) -> dict[int, Float[Tensor, "sender batch d_model"]]:
    """The residual stream at `position` before each of `layers`, once for each sender, all other heads frozen.

    Args:
        decoder: the model.
        cache: clean pass, with `keep`.
        partner: pass over the partner prompts, with `keep`; only its head outputs are used.
        position: where sender and receivers sit, one index a prompt.
        layers: layers before which to read; `n_layers` reads the final residual stream.

    Returns:
        For each layer, one entry for every head of the layers below it, in order (layer, head).
    """
    wanted = set(layers)
    x = at_position(cache.resid_pre[0], position)[None][:0]
    found = {}
    for layer in range(max(wanted)):
        if layer in wanted:
            found[layer] = x
        before, after = (at_position(entry[layer], position) for entry in (cache.z, partner.z))
        change = torch.einsum("bhd,hdm->hbm", after - before, decoder.W_O[layer])
        clean = at_position(cache.resid_mid[layer], position)
        frozen = decoder.write(layer, before)
        mid = torch.cat([x + frozen, clean + change])
        x = mid + decoder.mlp(layer, mid)
    found[max(wanted)] = x
    return found


def resume(
    decoder: Decoder,
    cache: Cache,
    layer: int,
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
    first: Float[Tensor, "copy batch d_model"],
    received: dict[int, tuple[Kind, Int[Tensor, " receiver"], Float[Tensor, "copy batch receiver d_head"]]]
    | None = None,
) -> Float[Tensor, "copy batch d_model"]:
    """Runs on from `layer` with the residual stream at `position` replaced; the final residual stream at END.

    Args:
        decoder: the model.
        cache: clean pass, with `keep`.
        layer: the layer before which `first` stands.
        position: the replaced position of each prompt.
        end: END of each prompt, not before `position`.
        first: new residual streams at `position` before `layer`, several copies of each prompt.
        received: for each layer: queries, keys or values at `position` to be overwritten, which heads, and by what.
    """
    if layer == decoder.n_layers:
        moved = (position == end)[None, :, None]
        return torch.where(moved, first, at_position(cache.final, end)[None])
    copies, batch = first.shape[:2]
    width = int((end - position).max()) + 1
    steps = torch.arange(width, device=first.device)
    at = (position[:, None] + steps).clamp(max=cache.final.shape[1] - 1)  # beyond END nothing is read
    rows = torch.arange(batch, device=first.device)[:, None]
    x = cache.resid_pre[layer][rows, at].expand(copies, -1, -1, -1).clone()
    x[:, :, 0] = first
    past = torch.arange(cache.final.shape[1], device=first.device) < position[:, None]
    causal = steps[:, None] >= steps
    for now in range(layer, decoder.n_layers):
        normed = decoder.norm(now, 0, x)
        parts = {
            "q": decoder.queries(now, normed, at),
            "k": decoder.keys(now, normed, at),
            "v": decoder.values(now, normed),
        }
        if received and now in received:
            kind, heads, values = received[now]
            parts[kind][:, :, 0, heads] = values
        z = _attend(decoder, cache, now, parts["q"], parts["k"], parts["v"], past, causal)
        mid = x + decoder.write(now, z)
        x = mid + decoder.mlp(now, mid)
    last: Tensor = x[:, torch.arange(batch, device=first.device), end - position]
    return last


def _attend(
    decoder: Decoder,
    cache: Cache,
    layer: int,
    q: Float[Tensor, "copy batch step head d_head"],
    k: Float[Tensor, "copy batch step kv_head d_head"],
    v: Float[Tensor, "copy batch step kv_head d_head"],
    past: Tensor,
    causal: Tensor,
) -> Float[Tensor, "copy batch step head d_head"]:
    """Attention of a window of recomputed positions over the clean past and over itself."""
    copies = q.shape[0]
    over_past = decoder.scores(einops.rearrange(q, "c b s h d -> b (c s) h d"), cache.k[layer])
    over_past = over_past.masked_fill(~past[:, None, None, :], float("-inf"))
    over_past = einops.rearrange(over_past, "b h (c s) t -> (c b) h s t", c=copies)
    own = decoder.scores(q.flatten(0, 1), k.flatten(0, 1)).masked_fill(~causal, float("-inf"))
    pattern = torch.cat([over_past, own], -1).softmax(-1)
    length = over_past.shape[-1]
    from_past = einops.rearrange(pattern[..., :length], "(c b) h s t -> b h (c s) t", c=copies)
    z_past = einops.rearrange(decoder.mix(from_past, cache.v[layer]), "b (c s) h d -> c b s h d", c=copies)
    z_own = einops.rearrange(decoder.mix(pattern[..., length:], v.flatten(0, 1)), "(c b) s h d -> c b s h d", c=copies)
    return z_past + z_own


def path_patch(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
    receivers: Receivers | None,
) -> Float[Tensor, "sender batch d_model"]:
    """The final residual stream at END when each head in turn is patched into the receivers (`path_patch_w22`).

    Args:
        decoder: the model.
        cache: clean pass, with `keep`.
        partner: pass over the partner prompts, with `keep`.
        position: position of senders and receivers.
        end: END of each prompt.
        receivers: None for the final residual stream itself; `position` must then be `end`.

    Returns:
        One entry for each head of all layers, or, with receivers, of the layers below the last receiver. Heads above
        that reach no receiver: their effect is zero.
    """
    if receivers is None:
        if not torch.equal(position, end):
            raise ValueError("senders patched into the final residual stream must sit at END")
        return receive(decoder, cache, partner, position, [decoder.n_layers])[decoder.n_layers]
    layers = receivers.layers
    found = receive(decoder, cache, partner, position, layers)
    copies = found[layers[-1]].shape[0]
    received = {}
    for layer in layers:
        heads = torch.tensor([head for where, head in receivers.heads if where == layer], device=position.device)
        clean = at_position(cache.resid_pre[layer], position)
        inputs = torch.cat([found[layer], clean.expand(copies - len(found[layer]), -1, -1)])
        normed = decoder.norm(layer, 0, inputs)
        if receivers.kind == "q":
            values = decoder.queries(layer, normed, position)
        elif receivers.kind == "k":
            values = decoder.keys(layer, normed, position)
        else:
            values = decoder.values(layer, normed)
        received[layer] = (receivers.kind, heads, values[:, :, heads])
    start = layers[0]
    first = at_position(cache.resid_pre[start], position).expand(copies, -1, -1)
    return resume(decoder, cache, start, position, end, first, received)


def patch_residual(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    layer: int,
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
) -> Float[Tensor, "batch d_model"]:
    """Activation patching of the residual stream before `layer`: the final residual stream at END.

    `cache` and `partner` in this order denoise or noise: the first is the run, the second where the vector comes from.
    """
    first = at_position(partner.resid_pre[layer] if layer < decoder.n_layers else partner.final, position)
    return resume(decoder, cache, layer, position, end, first[None])[0]


def patch_heads(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    layer: int,
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
) -> Float[Tensor, "head batch d_model"]:
    """Activation patching of each head of `layer` at one position, everything after it recomputed."""
    before, after = (at_position(entry.z[layer], position) for entry in (cache, partner))
    change = torch.einsum("bhd,hdm->hbm", after - before, decoder.W_O[layer])
    mid = at_position(cache.resid_mid[layer], position) + change
    return resume(decoder, cache, layer + 1, position, end, mid + decoder.mlp(layer, mid))
