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

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.metrics import Metric
from common.interp.decoder import Cache, Decoder
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


class EditedRuns(NamedTuple):
    """The plain pass over a batch, and the head outputs of the edited prompts."""

    batch: Batch
    clean: Cache
    edited: dict[str, list[Float[Tensor, "batch pos head d_head"]]]


def run_edits(decoder: Decoder, batch: Batch) -> EditedRuns:
    """All passes that `patch_edits` needs, for any heads and place."""
    clean = decoder.forward(batch.tokens("original"), batch.mask, keep=True)
    edited = {name: decoder.forward(tokens, batch.mask, keep=True).z for name, tokens in edited_tokens(batch).items()}
    return EditedRuns(batch, clean, edited)


def patch_edits(
    decoder: Decoder, runs: EditedRuns, place: Place, heads: list[int], names: tuple[str, ...] = EDITS
) -> Float[np.ndarray, "edit prompt"]:
    """F with `heads` (numbered through all layers) patched at `place` from each of the edits `names`."""
    batch, clean, _ = runs
    position, end = batch.at(place), batch.at("end")
    at = window(position, end, clean.final.shape[1])
    first = min(heads, default=0) // decoder.n_heads

    def edit(layer: int, z: Float[Tensor, "edit batch step head d_head"]) -> Tensor:
        own = [head % decoder.n_heads for head in heads if head // decoder.n_heads == layer]
        if not own:
            return z
        z = z.clone()
        z[:, :, 0, own] = torch.stack([at_position(runs.edited[name][layer], position)[:, own] for name in names])
        return z

    start = at_positions(clean.resid_pre[first], at).expand(len(names), -1, -1, -1)
    final = rerun(decoder, clean, first, at, end, start, edit=edit)
    values: np.ndarray = read_difference(decoder.bridge, final, batch.names).double().cpu().numpy()
    return values


def measure_edits(
    decoder: Decoder, runs: EditedRuns, place: Place, heads: list[int], draws: int, name: str
) -> dict[str, Metric]:
    """`<name>_token_alone` with the control `place_alone`, and `<name>_flip`, the scale over F; empty if no head."""
    if not heads:
        return {}
    prompts, generator, spared = runs.batch.prompts, np.random.default_rng(0), set(heads)
    others = [others_of_layers(heads, decoder.n_heads, spared, generator) for _ in range(draws)]
    last = at_position(runs.clean.final, runs.batch.at("end"))
    plain = read_difference(decoder.bridge, last, runs.batch.names).double().cpu().numpy()
    flipped, exchanged, both = patch_edits(decoder, runs, place, heads)
    random = np.stack([patch_edits(decoder, runs, place, one, ("flipped", "both")) for one in others])
    return {
        f"{name}_token_alone": clustered(
            both - flipped,
            prompts,
            unit="1",
            formula="(F(both edits) - F(flipped)) / (F - F(flipped)), heads patched at one position",
            cluster="prompts",
            denominators=plain - flipped,
            controls={"place_alone": exchanged - flipped},
            draws={"other_heads": random[:, 1] - random[:, 0]},
        ),
        f"{name}_flip": clustered(
            plain - flipped, prompts, unit="1", formula="(F - F(flipped)) / F", denominators=plain
        ),
    }
