"""What is compared: latents of dictionaries, neurons, rotated neurons, all as lists of where they fire.

A TopK latent fires on few tokens, a ReLU neuron on many. So that neither looks better for its rate alone, a neuron
fires where it exceeds the quantile that gives it the firing rate of a latent, the busiest neuron that of the busiest
latent and so on; rotated neurons (a random orthogonal rotation of the activations) likewise. Kinds of unit:

- at the rates of the latents: `features` (latents), `neurons`, `rotated` neurons, `untrained` (latents of the
  dictionary on the network before training, Heap et al. 2025), `start` (the dictionary before its first step);
- at their own rates: `narrow` and `relu` (latents of the narrowest TopK and the ReLU dictionary), `raw` (neurons that
  fire wherever they are positive).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.saes.sae import Sae
from replications.monosemanticity.model import Models, activations

CHUNK = 4096
ROTATION_SEED = 7_000
NARROW = {"narrow": "trained", "relu": "relu"}  # of the narrowest width


class Text(NamedTuple):
    """Held-out tokens in order, the first position of each window left out."""

    token: Int[np.ndarray, " n"]
    previous: Int[np.ndarray, " n"]
    following: Int[np.ndarray, " n"]
    """-1 at the end of a window"""
    document: Int[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]
    """whether the document is one on which explanations are scored; on the others they are made"""
    per_window: int

    def size(self) -> int:
        """Number of tokens."""
        return len(self.token)


class Firings(NamedTuple):
    """One entry per firing, sorted by unit."""

    unit: Int[np.ndarray, " entry"]
    place: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]
    units: int

    def kept(self, alive: Bool[np.ndarray, " unit"]) -> "Firings":
        """Only the units of the mask, numbered anew."""
        number = np.cumsum(alive) - 1
        use = alive[self.unit]
        return Firings(number[self.unit[use]], self.place[use], self.value[use], int(alive.sum()))

    def counts(self, mask: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " unit"]:
        """Firings of each unit on the tokens of the mask."""
        return np.bincount(self.unit[mask[self.place]], minlength=self.units)


def read_text(windows: Int[Tensor, "window pos"], document: Int[Tensor, " window"]) -> Text:
    """Documents take turns: every other one is for making explanations, the rest for scoring them."""
    tokens, wide = windows.numpy(), windows.shape[1] - 1
    following = np.concatenate([tokens[:, 2:], np.full((len(tokens), 1), -1)], axis=1)
    of = np.repeat(document.numpy(), wide)
    return Text(tokens[:, 1:].ravel(), tokens[:, :-1].ravel(), following.ravel(), of, of % 2 == 1, wide)


def sparse(values: Callable[[slice], Float[Tensor, "part unit"]], tokens: int) -> Firings:
    """Where `values` (a function of a slice of tokens) is positive."""
    places, units, sizes, count = [], [], [], 0
    for begin in range(0, tokens, CHUNK):
        part = values(slice(begin, min(begin + CHUNK, tokens)))
        count = part.shape[1]
        place, unit = part.gt(0).nonzero(as_tuple=True)
        places.append(place.numpy() + begin)
        units.append(unit.numpy())
        sizes.append(part[place, unit].numpy())
    every = np.concatenate(units)
    order = np.argsort(every, kind="stable")
    return Firings(every[order], np.concatenate(places)[order], np.concatenate(sizes)[order], count)


def at_rates(x: Float[Tensor, "token unit"], rates: Float[np.ndarray, " rate"]) -> Firings:
    """Each unit fires where it exceeds its own quantile; rates are handed out by rank of P(x > 0)."""
    rank = np.argsort(np.argsort(-x.gt(0).float().mean(0).numpy(), kind="stable"), kind="stable")
    wanted = np.interp(rank / max(1, len(rank) - 1), np.linspace(0, 1, len(rates)), np.sort(rates)[::-1])
    columns = x.mT.contiguous().numpy()
    last = np.clip(len(x) - 1 - np.round(wanted * len(x)).astype(int), 0, len(x) - 2)
    bound = torch.tensor([np.partition(column, at)[at] for column, at in zip(columns, last, strict=True)])
    return sparse(lambda part: torch.where(x[part] > bound, x[part] - bound, 0.0), len(x))


def rotation(d: int, seed: int) -> Float[Tensor, "d d"]:
    """A random orthogonal matrix."""
    drawn = torch.randn(d, d, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(drawn)
    found: Tensor = q * r.diagonal().sign()
    return found


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
