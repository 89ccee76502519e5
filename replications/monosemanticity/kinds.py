"""All kinds of unit of one model: where they fire, and their logit weights where their direction leads to the logits.

At the rates of the latents: `features` (latents), `neurons`, `rotated` neurons, `untrained` (latents of the dictionary
on the network before training, Heap et al. 2025), `start` (the dictionary before its first step). At their own rates:
`narrow` and `relu` (latents of the narrowest TopK and the ReLU dictionary), `raw` (neurons that fire wherever they are
positive).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.errors import UserError
from common.saes.sae import Sae
from replications.monosemanticity.model import Models, activations
from replications.monosemanticity.units import Firings, Text, at_rates, rotation, sparse

ROTATION_SEED = 7_000
NARROW = {"narrow": "trained", "relu": "relu"}  # of the narrowest width


class Kind(NamedTuple):
    """Units of one kind and, where their direction leads to the logits, their logit weights."""

    firings: Firings
    logits: Float[np.ndarray, "unit d_vocab"] | None = None


def made_kinds(
    models: Models, place: int, saes: dict[str, Sae], windows: Tensor, text: Text, least: int
) -> dict[str, Kind]:
    """All kinds of unit of one model; units that fire too rarely on either half of the documents are left out.

    UserError if none is left.
    """
    weights = models.one(place)
    x, before = (
        activations(one, windows, models.shape)[:, 1:].flatten(0, 1) for one in (weights, models.untrained().one(place))
    )
    to_logits = weights["blocks.0.mlp.W_out"][0] @ weights["unembed.W_U"][0]
    turn = rotation(x.shape[1], ROTATION_SEED + models.seeds[place])

    def latents(sae: Sae, x: Float[Tensor, "token d_mlp"], *, leads: bool = True) -> Kind:
        found, alive = living_latents(sae, x, text, least)
        return Kind(found, (sae.W_dec[torch.from_numpy(alive)] @ to_logits).numpy() if leads else None)

    features = latents(saes["trained"], x)
    rates = np.bincount(features.firings.unit) / text.size()

    def matched(x: Float[Tensor, "token unit"], rows: Float[Tensor, "unit d_mlp"]) -> Kind:
        found = at_rates(x, rates)
        alive = living(found, text, least)
        return Kind(found.kept(alive), (rows[torch.from_numpy(alive)] @ to_logits).numpy())

    raw = sparse(lambda part: x[part], len(x))
    return {
        "features": features,
        "neurons": matched(x, torch.eye(x.shape[1])),
        "rotated": matched(x @ turn, turn.mT),
        "untrained": latents(saes["untrained"], before, leads=False),
        "start": latents(saes["start"], x),
        **{kind: latents(saes[kind], x, leads=False) for kind in NARROW},
        "raw": Kind(raw.kept(living(raw, text, least))),
    }


def living_latents(
    sae: Sae, x: Float[Tensor, "token d_mlp"], text: Text, least: int
) -> tuple[Firings, Bool[np.ndarray, " latent"]]:
    """Where those latents fire that fire often enough, and which they are. UserError if there is none."""
    found = sparse(lambda part: sae.encode(x[part]), len(x))
    alive = living(found, text, least)
    if not alive.any():
        raise UserError(f"no latent fires {least} times on each half of the documents; lower 'least_firings'")
    return found.kept(alive), alive


def living(firings: Firings, text: Text, least: int) -> Bool[np.ndarray, " unit"]:
    """Units that fire often enough on both halves of the documents."""
    alive: Bool[np.ndarray, " unit"] = np.minimum(firings.counts(text.scored), firings.counts(~text.scored)) >= least
    return alive
