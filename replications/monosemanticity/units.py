"""What is compared: latents of dictionaries, neurons, rotated neurons, all as lists of where they fire.

A TopK latent fires on few tokens, a ReLU neuron on many. So that neither looks better for its rate alone, a neuron
fires where it exceeds the quantile that gives it the firing rate of a latent, the busiest neuron that of the busiest
latent and so on; rotated neurons (a random orthogonal rotation of the activations) likewise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK = 4096


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
