"""Running a model again from some layer on, at some positions only: what every patch and knock-out here rests on.

A change at position p of layer l touches nothing before p and nothing below l. And where all other positions are held
fixed, whatever they are, only the changed ones need to be computed. Keys and values of the others come from a cached
pass. Both cases are `rerun`.
"""

from collections.abc import Callable
from typing import Literal

import einops
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.interp.decoder import Cache, Decoder, Edit

Kind = Literal["q", "k", "v"]
Received = dict[int, tuple[Kind, Tensor, Tensor]]
"""For each layer: what kind of input is overwritten, indices of the receivers, values [copy batch receiver d_head]."""
Join = Callable[[int], Tensor | None]
"""Given a layer, residual streams [copy batch step d_model] before its MLP of more copies, which run on from there."""


def at_position(x: Float[Tensor, "batch pos *rest"], position: Int[Tensor, " batch"]) -> Float[Tensor, "batch *rest"]:
    """The vector of each prompt at its own position."""
    found: Tensor = x[torch.arange(len(x), device=x.device), position]
    return found


def at_positions(
    x: Float[Tensor, "batch pos *rest"], at: Int[Tensor, "batch step"]
) -> Float[Tensor, "batch step *rest"]:
    """The vectors of each prompt at several positions of its own."""
    found: Tensor = x[torch.arange(len(x), device=x.device)[:, None], at]
    return found


def window(position: Int[Tensor, " batch"], end: Int[Tensor, " batch"], length: int) -> Int[Tensor, "batch step"]:
    """Positions `position`..END of each prompt. Shorter windows are filled with later positions, which END ignores."""
    steps = torch.arange(int((end - position).max()) + 1, device=position.device)
    return (position[:, None] + steps).clamp(max=length - 1)


def rerun(
    decoder: Decoder,
    cache: Cache,
    layer: int,
    at: Int[Tensor, "batch step"],
    end: Int[Tensor, " batch"],
    x: Float[Tensor, "copy batch step d_model"],
    *,
    edit: Edit | None = None,
    received: Received | None = None,
    join: Join | None = None,
    until: int | None = None,
) -> Float[Tensor, "copy_or_joined batch *step d_model"]:
    """Runs on from `layer` at the positions `at` alone, up to the final residual stream at END.

    All other positions keep what `cache` holds. Exact whenever nothing that they read has changed: `at` is a window up
    to END, or everything outside it is held fixed. The last MLP is computed at END alone.

    Args:
        decoder: the model.
        cache: a pass with `keep`.
        layer: the layer before which `x` stands; `n_layers` if no layer is left.
        at: positions of each prompt, ascending, END among them.
        end: END of each prompt.
        x: residual streams there, several copies of each prompt.
        edit: given a layer and the head outputs [copy batch step head d_head], returns those to go on with.
        received: for each layer: queries, keys or values of the first step to be overwritten, which heads, by what.
        join: copies that enter later, after those of `x`, which may then be none.
        until: the layer before which to stop, and to return the streams of all positions; None for the whole way.
    """
    places = torch.arange(cache.final.shape[1], device=at.device)
    recomputed = (at[:, :, None] == places).any(1)
    past = (places <= at[:, :, None]) & ~recomputed[:, None]
    steps = torch.arange(at.shape[1], device=at.device)
    causal = steps[:, None] >= steps
    rows, last = torch.arange(len(at), device=at.device), (at == end[:, None]).int().argmax(1)
    for now in range(layer, decoder.n_layers if until is None else until):
        if len(x):
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
            x = x + decoder.write(now, z if edit is None else edit(now, z))
        if join and (more := join(now)) is not None:
            x = torch.cat([x, more])
        if now == decoder.n_layers - 1:
            x = x[:, rows, last]
        x = x + decoder.mlp(now, x)
    return x[:, rows, last] if layer == decoder.n_layers else x


def _attend(
    decoder: Decoder,
    cache: Cache,
    layer: int,
    q: Float[Tensor, "copy batch step head d_head"],
    k: Float[Tensor, "copy batch step kv_head d_head"],
    v: Float[Tensor, "copy batch step kv_head d_head"],
    past: Bool[Tensor, "batch step pos"],
    causal: Bool[Tensor, "step step"],
) -> Float[Tensor, "copy batch step head d_head"]:
    """Attention of recomputed positions over the others, as the cache has them, and over themselves."""
    copies = q.shape[0]
    over_past = decoder.scores(einops.rearrange(q, "c b s h d -> b (c s) h d"), cache.k[layer])
    over_past = einops.rearrange(over_past, "b h (c s) t -> c b h s t", c=copies)
    over_past = over_past.masked_fill(~past[:, None], float("-inf")).flatten(0, 1)
    own = decoder.scores(q.flatten(0, 1), k.flatten(0, 1)).masked_fill(~causal, float("-inf"))
    pattern = torch.cat([over_past, own], -1).softmax(-1)
    length = over_past.shape[-1]
    from_past = einops.rearrange(pattern[..., :length], "(c b) h s t -> b h (c s) t", c=copies)
    z_past = einops.rearrange(decoder.mix(from_past, cache.v[layer]), "b (c s) h d -> c b s h d", c=copies)
    z_own = einops.rearrange(decoder.mix(pattern[..., length:], v.flatten(0, 1)), "(c b) s h d -> c b s h d", c=copies)
    return z_past + z_own
