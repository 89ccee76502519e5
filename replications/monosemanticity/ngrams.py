"""Predictions from counts of the training text, which a model must beat before its features mean anything.

p1 is the smoothed share of a token; p2(c | b) = (n(b, c) + m2 p1(c)) / (n(b) + m2); p3(c | a, b) likewise, falling back
on p2. The m are those that predict the training text's last tenth best from the rest.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

OPTIONS = (3.0, 10.0, 30.0, 100.0, 300.0)
Ids = Int[np.ndarray, " _"]


class Counts(NamedTuple):
    """Counts of single tokens, and of pairs and triples as sorted keys with their counts."""

    one: Int[np.ndarray, " d_vocab"]
    two: tuple[Ids, Ids]
    three: tuple[Ids, Ids]

    def losses(self, a: Ids, b: Ids, c: Ids, m2: float, m3: float) -> dict[str, Float[np.ndarray, " _"]]:
        """Loss in nats of predicting each c behind a, b."""
        v = len(self.one)
        p1 = (self.one[c] + 1) / (self.one.sum() + v)
        pair = _looked_up(self.two, a * v + b)
        p2 = (_looked_up(self.two, b * v + c) + m2 * p1) / (self.one[b] + m2)
        p3 = (_looked_up(self.three, (a * v + b) * v + c) + m3 * p2) / (pair + m3)
        return {name: -np.log(p) for name, p in (("unigrams", p1), ("bigrams", p2), ("trigrams", p3))}


def count(stream: Ids, d_vocab: int) -> Counts:
    """Counts of a stream of tokens."""
    keys = stream.astype(np.int64)
    pairs = keys[:-1] * d_vocab + keys[1:]
    two, three = (np.unique(one, return_counts=True) for one in (pairs, pairs[:-1] * d_vocab + keys[2:]))
    return Counts(np.bincount(keys, minlength=d_vocab), two, three)


def ngram_losses(stream: Ids, d_vocab: int, a: Ids, b: Ids, c: Ids) -> dict[str, Float[np.ndarray, " _"]]:
    """Losses of unigrams, bigrams and trigrams on triples of held-out tokens, all counted on the whole stream."""
    cut = len(stream) * 9 // 10
    head, tail = count(stream[:cut], d_vocab), stream[cut:].astype(np.int64)

    def on_tail(pair: tuple[float, float]) -> float:
        found = head.losses(tail[:-2], tail[1:-1], tail[2:], *pair)
        return float(found["bigrams"].mean() + found["trigrams"].mean())

    return count(stream, d_vocab).losses(a, b, c, *min(product(OPTIONS, OPTIONS), key=on_tail))


def _looked_up(table: tuple[Ids, Ids], keys: Ids) -> Ids:
    known, counts = table
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    found: Ids = np.where(known[at] == keys, counts[at], 0)
    return found
