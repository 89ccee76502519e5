"""Does "where" mean the place of the first mention, or the token that follows it?

An induction head at S2 attends to S1+1, the token after the first mention of S. Its output, and through it the
"position signal" of the S-inhibition heads (signals.py), may carry that place or the token that stands there. So tokens
are edited:

    flipped     S2 <- IO: the head now looks behind IO. Place and token are both the other ones
    exchanged   the tokens behind IO and behind S1 change places, S2 stays: the place is the same, the token the other
    both        both edits: the place is the other one, the token the same

The heads of a set get, at one position, their output on an edited prompt; everything after is recomputed. The flip sets
the scale. With F the logit difference on the names of the prompt itself,

    token_alone   (F(both) - F(flipped)) / (F - F(flipped)): what stays when the token stays and the place changes
    place_alone   (F(exchanged) - F(flipped)) / (F - F(flipped)): what stays when the place stays and the token changes

A head that carries one of the two has 1 and 0. If either is enough, both are near 1. Control besides: as many other
heads of the same layers, on the same scale.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.metrics import Metric
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position, at_positions, rerun, window
from replications.ioi_circuit.batches import Batch, Place
from replications.ioi_circuit.nodes import others_of_layers
from replications.ioi_circuit.prompt_statistics import clustered
from replications.ioi_circuit.residual import read_difference

EDITS = ("flipped", "exchanged", "both")


def edited_tokens(batch: Batch) -> dict[str, Int[Tensor, "batch pos"]]:
    """The three edits of the module's docstring."""
    plain, rows = batch.tokens("original"), torch.arange(len(batch.prompts), device=batch.device)
    io, s1, s2 = (batch.at(place) for place in ("io", "s1", "s2"))
    exchanged = plain.clone()
    exchanged[rows, io + 1], exchanged[rows, s1 + 1] = plain[rows, s1 + 1], plain[rows, io + 1]
    flipped, both = plain.clone(), exchanged.clone()
    flipped[rows, s2] = both[rows, s2] = batch.names[:, 0]
    return {"flipped": flipped, "exchanged": exchanged, "both": both}


def patch_edits(
    decoder: Decoder, batch: Batch, place: Place, sets: list[list[int]]
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "set edit prompt"]]:
    """F of the plain run, and with the heads of each set (numbered through all layers) patched from every edit."""
    clean = decoder.forward(batch.tokens("original"), batch.mask, keep=True)
    position, end = batch.at(place), batch.at("end")
    edits = [
        [at_position(z, position) for z in decoder.forward(tokens, batch.mask, keep=True).z]
        for tokens in edited_tokens(batch).values()
    ]
    at = window(position, end, clean.final.shape[1])
    values = []
    for heads in sets:
        first = min(heads, default=0) // decoder.n_heads

        def edit(layer: int, z: Float[Tensor, "edit batch step head d_head"], heads: list[int] = heads) -> Tensor:
            own = [head % decoder.n_heads for head in heads if head // decoder.n_heads == layer]
            z = z.clone()
            z[:, :, 0, own] = torch.stack([one[layer][:, own] for one in edits])
            return z

        start = at_positions(clean.resid_pre[first], at).expand(len(edits), -1, -1, -1)
        final = rerun(decoder, clean, first, at, end, start, edit=edit)
        values.append(read_difference(decoder.bridge, final, batch.names).double().cpu().numpy())
    plain = read_difference(decoder.bridge, at_position(clean.final, end), batch.names)
    return plain.double().cpu().numpy(), np.stack(values)


def measure_edits(
    decoder: Decoder, batch: Batch, place: Place, heads: list[int], draws: int, name: str
) -> dict[str, Metric]:
    """`<name>_token_alone` with the control `place_alone`, and `<name>_flip`, the scale over F; empty if no head."""
    if not heads:
        return {}
    generator, spared = np.random.default_rng(0), set(heads)
    others = [others_of_layers(heads, decoder.n_heads, spared, generator) for _ in range(draws)]
    plain, values = patch_edits(decoder, batch, place, [heads, *others])
    flipped, exchanged, both = values.transpose(1, 0, 2)
    return {
        f"{name}_token_alone": clustered(
            (both - flipped)[0],
            batch.prompts,
            unit="1",
            formula="(F(both edits) - F(flipped)) / (F - F(flipped)), heads patched at one position",
            cluster="prompts",
            denominators=plain - flipped[0],
            controls={"place_alone": (exchanged - flipped)[0]},
            draws={"other_heads": (both - flipped)[1:]},
        ),
        f"{name}_flip": clustered(
            plain - flipped[0], batch.prompts, unit="1", formula="(F - F(flipped)) / F", denominators=plain
        ),
    }
