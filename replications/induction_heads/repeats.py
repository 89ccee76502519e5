"""Random tokens with one repeated block, for a language model: no meaning, no grammar, nothing learned can help.

A sequence starts with the document token, then come random tokens; one block occurs twice, at a random distance.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.errors import UserError

FIRST_PLAIN_TOKEN = 100  # below are special tokens and single bytes
CHOOSING = 10_000  # seed of the sequences on which heads are chosen; scoring seeds are smaller


class Repeats(NamedTuple):
    """Sequences, the predictions that the first copy determines, and a version whose first copy holds other tokens."""

    tokens: Int[Tensor, "batch pos"]
    repeated: Bool[Tensor, "batch next"]
    unrepeated: Int[Tensor, "batch pos"]


def random_repeats(n: int, block: int, length: int, d_vocab: int, seed: int) -> Repeats:
    """UserError if two copies do not fit."""
    fresh = length - 1 - block
    if block < 2 or fresh < 2 * block:
        raise UserError(f"a sequence of {length} tokens cannot hold two blocks of {block} and as many other tokens")
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    others: list[Tensor] = []
    for _ in range(n):
        start = int(torch.randint(0, fresh - 2 * block + 1, (1,), generator=generator))
        again = int(torch.randint(start + block, fresh + 1, (1,), generator=generator))
        draw = torch.randint(FIRST_PLAIN_TOKEN, d_vocab, (fresh + block,), generator=generator)
        words, spare = draw[:fresh], draw[fresh:]
        row = torch.cat([torch.zeros(1, dtype=torch.long), words[:again], words[start : start + block], words[again:]])
        other = row.clone()
        other[1 + start : 1 + start + block] = spare
        mask = torch.zeros(length - 1, dtype=torch.bool)
        mask[1 + again : again + block] = True
        rows.append(row)
        masks.append(mask)
        others.append(other)
    return Repeats(torch.stack(rows), torch.stack(masks), torch.stack(others))


def repeat_gain(losses: Float[Tensor, "batch next"], repeated: Bool[Tensor, "batch next"]) -> float:
    """Mean loss of tokens that nothing determines minus mean loss of those that an earlier copy determines, in nats."""
    return float(losses[~repeated].double().mean() - losses[repeated].double().mean())
