"""Passes over prompts and their partners, with everything kept that sweeps and class rules read from them."""

from collections import Counter
from typing import NamedTuple

import einops
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.step import track
from common.interp.decoder import Cache, Decoder
from replications.ioi_circuit.batches import Batch, Place, whole_templates
from replications.ioi_circuit.dataset import Prompt, Version

ATTENTION: tuple[tuple[Place, Place], ...] = (
    ("end", "io"),
    ("end", "s1"),
    ("end", "s2"),
    ("end", "end"),
    ("s2", "s1"),
    ("s2", "s1_next"),
    ("s1_next", "s1"),
)
CHUNK = 44
"""Prompts in one pass at most. With a few positions of a few prompts, reading weights costs more than arithmetic."""
PerHead = Float[np.ndarray, "head n"]


class Passes(NamedTuple):
    """Some prompts, with the passes over them and over their partners."""

    batch: Batch
    clean: Cache
    partner: Cache
    """head outputs alone"""
    attends: dict[str, PerHead]
    partner_attends: dict[str, PerHead]

    def thinned(self, step: int) -> "Passes":
        """Every `step`-th prompt of each template.

        A template's first is one later than that of the template before in its half, so that over `step` templates
        every order and seed stays as often as before.
        """
        seen = Counter({template: template // 2 for template in {row.template for row in self.batch.prompts}})
        rows = []
        for row, prompt in enumerate(self.batch.prompts):
            if seen[prompt.template] % step == 0:
                rows.append(row)
            seen[prompt.template] += 1
        clean = Cache(
            **{key: [x[rows] for x in each] for key, each in vars(self.clean).items() if key != "final"},
            final=self.clean.final[rows],
        )
        batch = Batch([self.batch.prompts[row] for row in rows], self.batch.device)
        return Passes(batch, clean, Cache(z=[z[rows] for z in self.partner.z]), {}, {})

    def beside_flipped(self, decoder: Decoder) -> "Passes":
        """The same prompts; their partners are they themselves with flipped roles."""
        other = decoder.forward(self.batch.tokens("roles_flipped"), self.batch.mask, keep=True)
        return Passes(self.batch, self.clean, Cache(z=other.z), {}, {})


def shared_passes(decoder: Decoder, prompts: list[Prompt]) -> list[Passes]:
    """The passes that all receiver sets of these prompts share, beside their ABC partners."""
    found = []
    for group in track(whole_templates(prompts, CHUNK), "passes"):
        batch = Batch(group, decoder.W_O[0].device.type)
        clean, attends = attention(decoder, batch, "original")
        other, of_partner = attention(decoder, batch, "abc")
        found.append(Passes(batch, clean, Cache(z=other.z), attends, of_partner))
    return found


def attention(decoder: Decoder, batch: Batch, version: Version) -> tuple[Cache, dict[str, PerHead]]:
    """A pass with everything kept, and the attention of every head from one position to another.

    Returns:
        The cache, and `from>to` -> one value for each head (all layers) and prompt; `s1_next>before` is the attention
        to the token before S1.
    """
    kept: dict[str, list[Tensor]] = {}
    rows = torch.arange(len(batch.prompts), device=batch.device)
    places = {f"{query}>{key}": (batch.at(query), batch.at(key)) for query, key in ATTENTION}
    places["s1_next>before"] = (batch.at("s1_next"), batch.at("s1") - 1)

    def keep(layer: int, pattern: Tensor) -> None:
        for name, (query, key) in places.items():
            kept.setdefault(name, []).append(pattern[rows, :, query, key])

    cache = decoder.forward(batch.tokens(version), batch.mask, keep=True, patterns=keep)
    stacked = {name: einops.rearrange(values, "layer n head -> (layer head) n") for name, values in kept.items()}
    return cache, {name: values.double().cpu().numpy() for name, values in stacked.items()}
