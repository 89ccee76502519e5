"""Modular addition: all pairs (a, b), their answers a + b mod p, and which pairs are trained on."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Task(NamedTuple):
    """All p^2 pairs in the order a p + b."""

    pairs: Int[Tensor, "pair 2"]
    answers: Int[Tensor, " pair"]
    trained: Bool[Tensor, " pair"]

    @property
    def prime(self) -> int:
        """p."""
        return math.isqrt(len(self.trained))

    @property
    def unseen(self) -> Bool[Tensor, " pair"]:
        """Held-out pairs whose mirror (b, a) is held out, too: a network that treats a and b alike knows the others."""
        grid = self.trained.reshape(self.prime, self.prime)
        return ~(grid | grid.T).flatten()


def all_pairs(prime: int) -> Int[Tensor, "pair 2"]:
    """Every (a, b), in the order of `Task`."""
    number = torch.arange(prime)
    return torch.cartesian_prod(number, number)


def task(prime: int, fraction: float, seed: int, random_answers: bool = False) -> Task:
    """A seed's training sets are nested: a larger share adds pairs. Random answers are drawn evenly."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(prime**2, generator=draw)
    shuffle = torch.randint(prime, (prime**2,), generator=draw)
    pairs = all_pairs(prime)
    trained = torch.zeros(prime**2, dtype=torch.bool)
    trained[order[: round(fraction * prime**2)]] = True
    return Task(pairs, shuffle if random_answers else pairs.sum(-1) % prime, trained)
