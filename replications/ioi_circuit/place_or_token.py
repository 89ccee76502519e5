"""Does "where" mean the place of the first mention, or the token that follows it?

An induction head at S2 attends to S1+1, the token after the first mention of S. Its output, and through it the
"position signal" of the S-inhibition heads (signals.py), may carry that place or the token that stands there. So tokens
are edited:

    flipped     S2 <- IO: the head now looks behind IO. Place and token are both the other ones
    exchanged   the tokens behind IO and behind S1 change places, S2 stays: the place is the same, the token the other
    both        both edits: the place is the other one, the token the same
    alike       the same token behind both names, that behind the first one: the token says nothing
    alike_flipped   the same, and S2 <- IO
    says_nothing    no edit: the mean of a head's outputs on prompt and flip, so which name came twice is gone

The heads of a set get, at one position, their output on an edited prompt; everything after is recomputed. The flip sets
the scale. With F the logit difference on the names of the prompt itself,

    token_alone   (F(both) - F(flipped)) / (F - F(flipped)): what stays when the token stays and the place changes
    place_alone   (F(exchanged) - F(flipped)) / (F - F(flipped)): what stays when the place stays and the token changes

    place_only    (F(alike) - F(alike_flipped)) / (F - F(flipped)): what a flip still does when the token says nothing

A head that carries one of the two has 1 and 0 in the first two shares. If either is enough, both are near 1. An edit
that breaks the head leaves some share of both, too: what `says_nothing` measures. It need not be one half, since what
reads the head is not linear and other heads stand in for it. `place_only` is a difference of two edited
prompts, so an edit that breaks the head gives 0. What is left may be the place or what earlier layers wrote there, the
name itself among it (signals.py has the names). Control besides: as many other heads of the same layers.
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

EDITS = ("flipped", "exchanged", "both", "alike", "alike_flipped")
PATCHES = (*EDITS, "says_nothing")


def edited_tokens(batch: Batch) -> dict[str, Int[Tensor, "batch pos"]]:
    """The edits of tokens of the module's docstring."""
    plain, rows = batch.tokens("original"), torch.arange(len(batch.prompts), device=batch.device)
    io, s1, s2 = (batch.at(place) for place in ("io", "s1", "s2"))
    exchanged = plain.clone()
    exchanged[rows, io + 1], exchanged[rows, s1 + 1] = plain[rows, s1 + 1], plain[rows, io + 1]
    alike, first = plain.clone(), torch.minimum(io, s1)
    alike[rows, io + 1] = alike[rows, s1 + 1] = plain[rows, first + 1]
    flipped, both, alike_flipped = plain.clone(), exchanged.clone(), alike.clone()
    flipped[rows, s2] = both[rows, s2] = alike_flipped[rows, s2] = batch.names[:, 0]
    return dict(zip(EDITS, (flipped, exchanged, both, alike, alike_flipped), strict=True))


class EditedRuns(NamedTuple):
    """The plain pass over a batch, and the head outputs of the edited prompts and of `says_nothing`."""

    batch: Batch
    clean: Cache
    edited: dict[str, list[Float[Tensor, "batch pos head d_head"]]]


def run_edits(decoder: Decoder, batch: Batch) -> EditedRuns:
    """All passes that `patch_edits` needs, for any heads and place."""
    clean = decoder.forward(batch.tokens("original"), batch.mask, keep=True)
    edited = {name: decoder.forward(tokens, batch.mask, keep=True).z for name, tokens in edited_tokens(batch).items()}
    edited["says_nothing"] = [(one + other) / 2 for one, other in zip(clean.z, edited["flipped"], strict=True)]
    return EditedRuns(batch, clean, edited)


def patch_edits(
    decoder: Decoder, runs: EditedRuns, place: Place, heads: list[int], names: tuple[str, ...] = PATCHES
) -> Float[np.ndarray, "edit prompt"]:
    """F with `heads` (numbered through all layers) patched at `place` from each of `names`."""
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
    """`<name>_token_alone`, `<name>_place_only`, and `<name>_flip`, the scale over F; empty if no head."""
    if not heads:
        return {}
    prompts, generator, spared = runs.batch.prompts, np.random.default_rng(0), set(heads)
    others = [others_of_layers(heads, decoder.n_heads, spared, generator) for _ in range(draws)]
    last = at_position(runs.clean.final, runs.batch.at("end"))
    plain = read_difference(decoder.bridge, last, runs.batch.names).double().cpu().numpy()
    flipped, exchanged, both, alike, alike_flipped, nothing = patch_edits(decoder, runs, place, heads)
    of_others = ("flipped", "both", "alike", "alike_flipped")
    random = np.stack([patch_edits(decoder, runs, place, one, of_others) for one in others])
    return {
        f"{name}_token_alone": clustered(
            both - flipped,
            prompts,
            unit="1",
            formula="(F(both edits) - F(flipped)) / (F - F(flipped)), heads patched at one position",
            denominators=plain - flipped,
            controls={"place_alone": exchanged - flipped, "says_nothing": nothing - flipped},
            draws={"other_heads": random[:, 1] - random[:, 0]},
        ),
        f"{name}_place_only": clustered(
            alike - alike_flipped,
            prompts,
            unit="1",
            formula="(F(alike) - F(alike, flipped)) / (F - F(flipped)), one token behind both names",
            denominators=plain - flipped,
            draws={"other_heads": random[:, 2] - random[:, 3]},
        ),
        f"{name}_flip": clustered(
            plain - flipped, prompts, unit="1", formula="(F - F(flipped)) / F", denominators=plain
        ),
    }
