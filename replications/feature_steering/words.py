"""The words of a topic, and how many of them an answer has.

While the model writes new conversations on a topic, its next-token probabilities are averaged. That is what it expects
to say about the topic; a few sampled texts would show only a part. Tokens that begin a word are joined over case and
plural to word stems. The words of a topic are the stems it raises most over the other topics. Of steering
vectors only the two pushes towards words come from these conversations.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = 3
LEAST, SMOOTH = 3e-4, 1e-4  # least expected share of a word of the topic; added to that among the others
COMMON = 3e-4  # a word expected more often than this on the other topics is general: "not", "than", "every"


def stem(word: str) -> str:
    """Lower case, plural ending cut."""
    word = word.lower()
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 4 else word


class Vocabulary(NamedTuple):
    """The word stems of a tokenizer, and the stem of each token (-1: begins no word)."""

    stems: list[str]
    of_token: Int[Tensor, " d_vocab"]


def vocabulary(tokenizer: "PreTrainedTokenizerBase", size: int) -> Vocabulary:
    """Tokens that begin with a space and are letters otherwise (byte-level: Ġ, SentencePiece: ▁)."""
    tokens = defaultdict(list)
    for token, place in tokenizer.get_vocab().items():
        if token[:1] in ("Ġ", "▁") and token[1:].isalpha() and token.isprintable() and len(token) > LETTERS:
            tokens[stem(token[1:])].append(place)
    stems, of_token = sorted(tokens), torch.full((size,), -1)
    for number, one in enumerate(stems):
        of_token[tokens[one]] = number
    return Vocabulary(stems, of_token)


def topic_words(
    expected: Float[Tensor, "topic d_vocab"], of_token: Int[Tensor, " d_vocab"], count: int
) -> Int[Tensor, "topic word"]:
    """The stems of highest expected share over that of the other topics; -1 where there are fewer than `count`."""
    known = of_token >= 0
    share = torch.zeros(len(expected), int(of_token.max()) + 1).index_add_(1, of_token[known], expected[:, known])
    others = (share.sum(0) - share) / (len(share) - 1)
    odds = torch.where((share >= LEAST) & (others <= COMMON), share / (others + SMOOTH), 0.0)
    values, found = odds.topk(min(count, odds.shape[1]), dim=1)
    return torch.where(values > 1, found, -1)


def halves(words: Int[Tensor, "topic word"]) -> tuple[Int[Tensor, "topic half"], Int[Tensor, "topic other"]]:
    """Every second word of each topic, and the rest: what chooses by one half may be judged by the other."""
    return words[:, ::2], words[:, 1::2]


def word_tokens(of_token: Int[Tensor, " d_vocab"], words: Int[Tensor, "topic word"]) -> Float[Tensor, "d_vocab topic"]:
    """1 for every token that begins a word of the topic."""
    return ((of_token[:, None, None] == words) & (words >= 0)).any(-1).float()


def distinct_words(
    tokens: Int[Tensor, "row new"], of_token: Int[Tensor, " d_vocab"], words: Int[Tensor, "topic word"]
) -> Int[Tensor, "row topic"]:
    """How many different words of every topic each row has."""
    stems = of_token[tokens]
    has = (words[None, :, :, None] == stems[:, None, None, :]).any(-1) & (words >= 0)
    return has.sum(-1)


def distinct_bigrams(tokens: Int[Tensor, "row new"]) -> Float[Tensor, " row"]:
    """Distinct pairs of neighbouring tokens over all such pairs, of each row."""
    pairs = torch.stack([tokens[:, :-1], tokens[:, 1:]], -1)
    return torch.tensor([len({tuple(pair) for pair in row}) / len(row) for row in pairs.tolist()])
