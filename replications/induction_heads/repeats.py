"""Random tokens with one repeated block, for a language model: no meaning, no grammar, nothing learned can help.

A sequence starts with the document token, then come random tokens; one block occurs twice, at a random distance. In the
fuzzy version the second copy has other tokens than the first: the same words with a capital letter.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.interp.head_scores import successors
from replications.induction_heads.settings import Repeats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_PLAIN_TOKEN = 100  # below are special tokens and most single bytes (ids to 251 in SmolLM2), not all
SHORTEST_WORD = 4  # letters
CHOOSING = 10_000  # seed of the sequences on which heads are chosen; scoring seeds are smaller


class RandomRepeats(NamedTuple):
    """Sequences, the predictions that the first copy determines, and a version whose first copy holds other tokens."""

    tokens: Int[Tensor, "batch pos"]
    repeated: Bool[Tensor, "batch next"]
    unrepeated: Int[Tensor, "batch pos"]


def random_repeats(sizes: Repeats, d_vocab: int, seed: int) -> RandomRepeats:
    """UserError if two copies do not fit."""
    n, block, length = sizes.sequences, sizes.block, sizes.length
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
    return RandomRepeats(torch.stack(rows), torch.stack(masks), torch.stack(others))


class FuzzyRepeats(NamedTuple):
    """Tokens whose second copy is capitalised, the same with other words in the first copy, and the words' numbers."""

    tokens: Int[Tensor, "batch pos"]
    unrepeated: Int[Tensor, "batch pos"]
    words: Int[Tensor, "batch pos"]


def word_pairs(tokenizer: "PreTrainedTokenizerBase") -> Int[Tensor, "word form"]:
    """Token ids of all words that are one token both in small letters and with a capital. UserError if there is
    none."""
    ids = {
        text[1:]: i
        for text, i in tokenizer.get_vocab().items()
        if text[:1] in ("\u0120", "\u2581") and text[1:].isalpha()
    }
    small = sorted(text for text in ids if text.islower() and len(text) >= SHORTEST_WORD and text.capitalize() in ids)
    if not small:
        raise UserError("this tokenizer has no words with both a small and a capital form; leave the model out")
    return torch.tensor([[ids[text], ids[text.capitalize()]] for text in small])


def fuzzy_repeats(sizes: Repeats, pairs: Int[Tensor, "word form"], seed: int) -> FuzzyRepeats:
    """As `random_repeats` with words for tokens: the first copy in small letters, the second with capitals."""
    drawn = random_repeats(sizes, FIRST_PLAIN_TOKEN + len(pairs), seed)
    again = torch.zeros_like(drawn.tokens)
    again[:, :-1] = drawn.repeated
    again = (again.bool() | again.roll(1, 1).bool()).long()  # the positions of the second copy

    def spelled(words: Tensor) -> Tensor:
        return torch.where(words == 0, 0, pairs[(words - FIRST_PLAIN_TOKEN).clamp(min=0), again])

    return FuzzyRepeats(spelled(drawn.tokens), spelled(drawn.unrepeated), drawn.tokens)


def completes_a_pair(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch next"]:
    """Whether the next token followed an earlier copy of the present one."""
    same = tokens[:, None, :] == tokens[:, 1:, None]
    return (successors(tokens)[:, :-1] & same).any(-1)


def repeat_gain(losses: Float[Tensor, "batch next"], repeated: Bool[Tensor, "batch next"]) -> Float[Tensor, " batch"]:
    """Mean loss of tokens that nothing determines minus that of those that an earlier copy determines, per sequence."""

    def mean(which: Tensor) -> Tensor:
        return (losses.double() * which).sum(1) / which.sum(1)

    return mean(~repeated) - mean(repeated)
