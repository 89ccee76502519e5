"""Exact path patching and activation patching at one position, batched over all senders.

Formula `path_patch_w22` (Wang et al. 2022, appendix B; here with the single-position shortcut). A sender is one head at
one position. Its output is replaced by its output on a partner prompt. The change travels to the receivers along every
path that passes through no other head. All other heads are frozen at their clean values; MLPs and norms are recomputed.
The receivers are the final residual stream, or queries, keys or values of some heads at the same position. They are
then set to what they received in an otherwise clean run.

The paper's recipe takes four forward passes for each sender. But with all heads frozen no information moves between
positions. So `receive` recomputes the MLPs of the patched position alone, for all senders in one sweep through the
layers. A receiver at position p changes nothing before p. So `rerun` (common/interp/partial_forward.py) recomputes
positions p..END, from the first receiver's layer that a sender reaches. Keys and values of earlier positions are taken
from the clean run. A literal version of the four passes in tests/common agrees to 1e-4. `first_order` gives all senders
at once to first order, so that the exact sweep can be kept for those that matter.

Keys and values belong to key-value heads: with grouped-query attention the receivers of kind k and v are KV heads.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import Kind, Received, at_position, at_positions, rerun, window


@dataclass(frozen=True)
class Receivers:
    """Inputs of some heads at the senders' position. `heads` are (layer, head); for k and v, (layer, KV head)."""

    kind: Kind
    heads: tuple[tuple[int, int], ...]

    @property
    def layers(self) -> list[int]:
        """Layers with a receiver, each once, in order."""
        return sorted({layer for layer, _ in self.heads})

    def inputs(
        self,
        decoder: Decoder,
        streams: Mapping[int, Float[Tensor, "sender batch d_model"]],
        position: Int[Tensor, " batch"],
    ) -> Received:
        """What the receivers get when the residual stream at `position` before each of their layers is `streams`."""
        read: Received = {}
        for layer in self.layers:
            heads = torch.tensor([head for where, head in self.heads if where == layer], device=position.device)
            normed = decoder.norm(layer, 0, streams[layer])
            if self.kind == "q":
                values = decoder.queries(layer, normed, position)
            elif self.kind == "k":
                values = decoder.keys(layer, normed, position)
            else:
                values = decoder.values(layer, normed)
            read[layer] = (self.kind, heads, values[:, :, heads])
        return read


def kv_heads(heads: Iterable[tuple[int, int]], group: int) -> tuple[tuple[int, int], ...]:
    """The KV heads that serve these query heads, each once."""
    return tuple(sorted({(layer, head // group) for layer, head in heads}))


def receive(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    position: Int[Tensor, " batch"],
    layers: Iterable[int],
    senders: Collection[tuple[int, int]] | None = None,
) -> dict[int, Float[Tensor, "sender batch d_model"]]:
    """The residual stream at `position` before each of `layers`, once for each sender, all other heads frozen.

    Args:
        decoder: the model.
        cache: clean pass, with `keep`.
        partner: pass over the partner prompts, with `keep`; only its head outputs are used.
        position: where sender and receivers sit, one index a prompt.
        layers: layers before which to read; `n_layers` reads the final residual stream.
        senders: the heads (layer, head) to patch; all if None.

    Returns:
        For each layer, one entry for every sender of the layers below it, in order (layer, head).
    """
    wanted = set(layers)
    x = at_position(cache.resid_pre[0], position)[None][:0]
    found = {}
    for layer in range(max(wanted)):
        if layer in wanted:
            found[layer] = x
        before, after = (at_position(entry[layer], position) for entry in (cache.z, partner.z))
        heads = [head for head in range(decoder.n_heads) if senders is None or (layer, head) in senders]
        change = torch.einsum("bhd,hdm->hbm", (after - before)[:, heads], decoder.W_O[layer][heads])
        clean = at_position(cache.resid_mid[layer], position)
        frozen = decoder.write(layer, before)
        mid = torch.cat([x + frozen, clean + change])
        x = mid + decoder.mlp(layer, mid)
    found[max(wanted)] = x
    return found


def path_patch(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
    receivers: Receivers | None,
    senders: Collection[tuple[int, int]] | None = None,
) -> Float[Tensor, "sender batch d_model"]:
    """The final residual stream at END when each head in turn is patched into the receivers (`path_patch_w22`).

    Args:
        decoder: the model.
        cache: clean pass, with `keep`.
        partner: pass over the partner prompts, with `keep`.
        position: position of senders and receivers.
        end: END of each prompt.
        receivers: None for the final residual stream itself; `position` must then be `end`.
        senders: the heads (layer, head) to patch; all if None.

    Returns:
        One entry for each sender of all layers, or, with receivers, of the layers below the last receiver, in order.
        Heads above that reach no receiver: their effect is zero.
    """
    if receivers is None:
        if not torch.equal(position, end):
            raise ValueError("senders patched into the final residual stream must sit at END")
        return receive(decoder, cache, partner, position, [decoder.n_layers], senders)[decoder.n_layers]
    layers = receivers.layers
    found = receive(decoder, cache, partner, position, layers, senders)
    received = receivers.inputs(decoder, found, position)
    at = window(position, end, cache.final.shape[1])
    counts = [len(found[layer]) for layer in layers]
    entering = {above - 1: more - fewer for above, fewer, more in zip(layers[1:], counts, counts[1:], strict=False)}

    def join(layer: int) -> Tensor | None:
        """Clean copies for the senders between two receiver layers, which reach nothing before the upper one."""
        if layer not in entering:
            return None
        return at_positions(cache.resid_mid[layer], at).expand(entering[layer], -1, -1, -1)

    first = at_positions(cache.resid_pre[layers[0]], at).expand(counts[0], -1, -1, -1)
    return rerun(decoder, cache, layers[0], at, end, first, received=received, join=join)


def first_order(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
    receivers: Receivers | None,
    read: Callable[[Float[Tensor, "batch d_model"]], Float[Tensor, " batch"]],
) -> Float[Tensor, "sender batch"]:
    """What `path_patch` would change in `read` of the final residual stream at END, to first order, for every head.

    Takes one forward and one backward pass for all senders. The gradient is with respect to what the heads of each
    layer write at `position`, all heads frozen on the way to the receivers. It says which senders are worth the exact
    sweep.
    """
    top = decoder.n_layers if receivers is None else receivers.layers[-1]
    with torch.enable_grad():
        x = at_position(cache.resid_pre[0], position)
        written = [torch.zeros_like(x, requires_grad=True) for _ in range(top)]
        streams = {}
        for layer in range(top):
            streams[layer] = x[None]
            mid = x + decoder.write(layer, at_position(cache.z[layer], position)) + written[layer]
            x = mid + decoder.mlp(layer, mid)
        if receivers is not None:
            streams[top] = x[None]
            lowest = receivers.layers[0]
            at = window(position, end, cache.final.shape[1])
            start = at_positions(cache.resid_pre[lowest], at)[None]
            x = rerun(decoder, cache, lowest, at, end, start, received=receivers.inputs(decoder, streams, position))[0]
        gradients = torch.autograd.grad(read(x).sum(), written)
    changes = []
    for layer, gradient in enumerate(gradients):
        before, after = (at_position(entry[layer], position) for entry in (cache.z, partner.z))
        changes.append(torch.einsum("bhd,hdm,bm->hb", after - before, decoder.W_O[layer], gradient))
    return torch.cat(changes)


def patch_heads(
    decoder: Decoder,
    cache: Cache,
    partner: Cache,
    layers: Collection[int],
    position: Int[Tensor, " batch"],
    end: Int[Tensor, " batch"],
) -> Float[Tensor, "head batch d_model"]:
    """Activation patching of each head of `layers` at one position, everything after it recomputed.

    All heads run on together, each from its own layer. One entry for every head, in order (layer, head).
    """
    at = window(position, end, cache.final.shape[1])

    def join(layer: int) -> Tensor | None:
        if layer not in layers:
            return None
        before, after = (at_position(entry.z[layer], position) for entry in (cache, partner))
        change = torch.einsum("bhd,hdm->hbm", after - before, decoder.W_O[layer])
        mid = at_positions(cache.resid_mid[layer], at).repeat(decoder.n_heads, 1, 1, 1)
        mid[:, :, 0] += change
        return mid

    nothing = at_positions(cache.resid_pre[0], at)[None][:0]
    return rerun(decoder, cache, min(layers), at, end, nothing, join=join)
