"""Synthetic sequences: periodic ones to train on, one-shot block repeats to measure on, and the unigram oracle.

Training: every sequence repeats a random word of uniform tokens with its own random period, so that no fixed distance
predicts the next token. Held out, never trained on: distinct tokens, of which one block occurs a second time at a
random distance. The first copy lies within the longest training period, because no training sequence shows anything new
after it, and a model does not learn to read what it never needs. In a held-out sequence each token of the second copy
but the first is determined by the first copy, and by nothing else: no token occurs twice outside the block.
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
    if text.longest < text.shortest or text.longest_block < text.shortest_block:
        raise UserError(
            "a longest period or block is below the shortest; raise it in replications/induction_heads/config.yaml"
        )
    if text.longest >= text.length:
        raise UserError(
            f"a sequence of {text.length} tokens is too short for the period {text.longest}: nothing would repeat; "
            "raise 'length' or lower 'longest'"
        )
    if text.longest_block > text.longest or text.longest + text.longest_block > text.length:
        raise UserError(
            f"a block of {text.longest_block} tokens does not fit twice: the first copy must lie in the first "
            f"{text.longest} of {text.length} tokens and the second after them; lower 'longest_block'"
        )
    if text.length - text.shortest_block > text.d_vocab:
        raise UserError(
            f"a vocabulary of {text.d_vocab} tokens is too small: a held-out sequence needs "
            f"{text.length - text.shortest_block} distinct ones; raise 'd_vocab' or lower 'length'"
        )


def periodic(text: Text, batch: int, seed: int, step: int) -> Int[Tensor, "batch pos"]:
    """The training batch of one seed at one step; each sequence has its own period."""
    generator = torch.Generator().manual_seed(seed * STEP_STRIDE + step)
    words, periods = _words(text, batch, generator)
    return words.gather(1, torch.arange(text.length)[None] % periods)


def periodic_held_out(text: Text, batch: int, seed: int) -> HeldOut:
    """Periodic sequences; a target counts as repeated from its second occurrence after a first full period on."""
    generator = torch.Generator().manual_seed(-seed - 1)
    words, periods = _words(text, batch, generator)
    tokens = words.gather(1, torch.arange(text.length)[None] % periods)
    target = torch.arange(1, text.length)[None]
    return HeldOut(tokens, target > periods, unigram_oracle(tokens))


def one_shot(text: Text, batch: int, seed: int) -> HeldOut:
    """Distinct tokens with one block repeated once; block, both places and so the distance are random."""
    generator = torch.Generator().manual_seed(-seed - 1)
    tokens = torch.zeros(batch, text.length, dtype=torch.long)
    repeated = torch.zeros(batch, text.length - 1, dtype=torch.bool)
    for row in range(batch):
        block = _draw(text.shortest_block, text.longest_block, generator)
        start = _draw(0, text.longest - block, generator)
        again = _draw(text.longest, text.length - block, generator)
        fresh = torch.randperm(text.d_vocab, generator=generator)[: text.length - block]
        tokens[row] = torch.cat([fresh[:again], fresh[start : start + block], fresh[again:]])
        repeated[row, again : again + block - 1] = True
    return HeldOut(tokens, repeated, unigram_oracle(tokens))


def unigram_oracle(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch next"]:
    """Nats of guessing uniformly among the distinct tokens up to each position."""
    new = ~(tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(-1)
    return new.cumsum(1)[:, :-1].float().log()


def _words(text: Text, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    periods = torch.randint(text.shortest, text.longest + 1, (batch, 1), generator=generator)
    return torch.randint(text.d_vocab, (batch, text.longest), generator=generator), periods


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))
