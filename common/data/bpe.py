"""Small vocabularies for models that are trained here: a byte-pair encoding of the text at hand.

With a language model's own vocabulary the embeddings of a small model would hold nearly all its weights.
"""

from collections import Counter

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from common.data.corpora import Document

SPECIAL = ["<document>", "<unknown>"]
STRIDE = 1_000_003  # more than any run's steps, so no two (seed, step) share a batch


def drawn(documents: list[Document], characters: int) -> list[str]:
    """Texts of documents in a random order (always the same), as many as hold that many characters."""
    texts: list[str] = []
    used = 0
    for index in np.random.default_rng(0).permutation(len(documents)):
        if used >= characters:
            break
        texts.append(documents[index].text[: characters - used])
        used += len(texts[-1])
    return texts


def learned(texts: list[str], d_vocab: int) -> Tokenizer:
    """A byte-pair encoding of `texts`. The commonest characters are chosen here: the library leaves ties to chance."""
    tokenizer = Tokenizer(BPE(unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    counts = Counter(
        char for text in texts for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text) for char in piece
    )
    alphabet = sorted(counts, key=lambda char: (-counts[char], char))[: d_vocab // 2]
    trainer = BpeTrainer(
        vocab_size=d_vocab, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def stream_of(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    """All texts as one row of tokens, with the document token (0) before each."""
    return [number for one in tokenizer.encode_batch(texts) for number in [0, *one.ids]]


def stretches(
    stream: Int[Tensor, " token"], batch: int, length: int, seed: int, step: int
) -> Int[Tensor, "batch length"]:
    """Random stretches of a stream of tokens, a pure function of seed and step."""
    generator = torch.Generator().manual_seed(seed * STRIDE + step)
    starts = torch.randint(len(stream) - length + 1, (batch, 1), generator=generator).to(stream.device)
    return stream[starts + torch.arange(length, device=stream.device)]


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of every token."""
    return [tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size())]
