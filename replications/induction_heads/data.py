"""Synthetic sequences: segments among filler to train on, one-shot block repeats to measure on, the unigram oracle.

Training: uniform tokens, among which one segment occurs several times. Its length and all places are random, for every
sequence anew, so that neither a position nor a distance predicts the next token. Held out, never trained on: distinct
tokens, of which one block occurs a second time. In a held-out sequence each token of the second copy but the first is
determined by the first copy, and by nothing else. No token occurs twice outside the block.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from replications.induction_heads.settings import Text

STEP_STRIDE = 1_000_003  # more than any run's steps, so no two (seed, step) share a stream
# Seeds of held-out sets (their generators are seeded below 0). Heads are chosen on one set and judged on another.
TRACKING, CHOOSING, JUDGING = 0, 1, 2


class HeldOut(NamedTuple):
    """Sequences, and for the prediction made at each position whether its target is determined by an earlier copy.

    `oracle` is the loss of the in-context unigram predictor: ln of the number of distinct tokens seen so far.
    """

    tokens: Int[Tensor, "batch pos"]
    repeated: Bool[Tensor, "batch next"]
    oracle: Float[Tensor, "batch next"]

    def to(self, device: str) -> "HeldOut":
        """The same on another device."""
        return HeldOut(*(value.to(device) for value in self))


def check(text: Text) -> None:
    """UserError if no sequence could repeat, or the vocabulary cannot fill a held-out sequence."""
    if text.longest_block < text.shortest_block:
        raise UserError("the longest block is below the shortest; raise it in replications/induction_heads/config.yaml")
    if 2 * text.longest_block > text.length:
        raise UserError(
            f"a block of {text.longest_block} tokens does not fit twice into {text.length}; lower 'longest_block'"
        )
    if text.length > text.d_vocab:
        raise UserError(
            f"a vocabulary of {text.d_vocab} tokens is too small: a held-out sequence needs {text.length} distinct "
            "ones; raise 'd_vocab' or lower 'length'"
        )


def segments(text: Text, batch: int, seed: int, step: int) -> Int[Tensor, "batch pos"]:
    """The training batch of one seed at one step."""
    generator = torch.Generator().manual_seed(seed * STEP_STRIDE + step)
    return _segments(text, batch, generator)[0]


def segments_held_out(text: Text, batch: int, seed: int) -> HeldOut:
    """Sequences like those of training; targets in a later copy count as repeated, but for its first token."""
    tokens, places = _segments(text, batch, torch.Generator().manual_seed(-seed - 1))
    return HeldOut(tokens, determined(places), unigram_oracle(tokens))


def one_shot(text: Text, batch: int, seed: int) -> HeldOut:
    """Distinct tokens with one block repeated once; block, both places and so the distance are random."""
    generator = torch.Generator().manual_seed(-seed - 1)
    places = copied_from(text, 2, batch, generator)
    distinct = torch.rand(batch, text.d_vocab, generator=generator).argsort(1)[:, : text.length]
    tokens = distinct.gather(1, places)
    return HeldOut(tokens, determined(places), unigram_oracle(tokens))


def copied_from(text: Text, copies: int, batch: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """For each position the one whose token stands there: itself, or its place in the first copy of the segment.

    There are as many copies as fit, `copies` at most. They do not overlap: the rest of the sequence is cut at uniform
    draws, and the copies are put there.
    """
    size = torch.randint(text.shortest_block, text.longest_block + 1, (batch, 1), generator=generator)
    count = (text.length // size).clamp(max=copies)
    order = torch.arange(copies)
    cuts = torch.where(order < count, torch.rand(batch, copies, generator=generator), torch.inf).sort(1).values
    starts = torch.where(order < count, cuts * (text.length - count * size + 1), text.length).long() + order * size
    position = torch.arange(text.length)
    into = position - starts[:, :, None]
    inside = (into >= 0) & (into < size[:, :, None])
    return torch.where(inside.any(1), starts[:, :1] + (inside * into).sum(1), position)


def determined(places: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch next"]:
    """Whether an earlier copy says which token comes next: both tokens are copies, and neighbours in the first one."""
    copied = places != torch.arange(places.shape[1])
    return copied[:, :-1] & copied[:, 1:] & (places[:, 1:] == places[:, :-1] + 1)


def unigram_oracle(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch next"]:
    """Nats of guessing uniformly among the distinct tokens up to each position."""
    new = ~(tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(-1)
    return new.cumsum(1)[:, :-1].float().log()


def _segments(text: Text, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    places = copied_from(text, text.copies, batch, generator)
    return torch.randint(text.d_vocab, (batch, text.length), generator=generator).gather(1, places), places
