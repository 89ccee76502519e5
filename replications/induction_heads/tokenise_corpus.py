"""Step: documents of the corpus as tokens of a small vocabulary that is learned here by byte-pair encoding.

Small models need a small vocabulary: with the language model's own, their embeddings would hold nearly all weights.
Out: one file with the training stream and the first tokens of held-out documents, and the vocabulary's texts. Training
documents come in a random order, with the document token between them. Calibration seeds get other held-out packages
than scoring seeds.
"""

from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from common.cli import run
from common.corpora import Split, read_corpus
from common.errors import UserError
from common.files import atomic, write_json
from replications.induction_heads.text_settings import Tokens

FIRST_CALIBRATION_SEED = 100
SPECIAL = ["<document>", "<unknown>"]


def tokenise_corpus(*, corpus: Path, tokens: Tokens, seeds: list[int], out: Path, vocabulary: Path) -> None:
    """Writes `out` and `vocabulary` (a list of texts). UserError if too few held-out documents are long enough."""
    every = read_corpus(corpus.parent, "train")
    texts: list[str] = []
    used = 0
    for index in np.random.default_rng(0).permutation(len(every)):
        if used >= tokens.characters:
            break
        texts.append(every[index].text[: tokens.characters - used])
        used += len(texts[-1])
    tokenizer = learned(texts, tokens.d_vocab)
    stream = [number for one in tokenizer.encode_batch(texts) for number in [0, *one.ids]]
    split: Split = "validation" if min(seeds) >= FIRST_CALIBRATION_SEED else "held_out"
    rows = [
        [0, *one.ids[: tokens.length - 1]]
        for one in tokenizer.encode_batch([document.text for document in read_corpus(corpus.parent, split)])
        if len(one.ids) >= tokens.length - 1
    ]
    if len(rows) < tokens.held_out:
        raise UserError(
            f"only {len(rows)} held-out documents have {tokens.length} tokens; lower 'held_out' or 'length'"
        )
    order = np.random.default_rng(1).permutation(len(rows))[: tokens.held_out]
    with atomic(out) as temporary:
        held_out = np.array([rows[index] for index in order], dtype=np.int32)
        save_file({"train": np.array(stream, dtype=np.int32), "held_out": held_out}, temporary)
    write_json(
        vocabulary, [tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size())]
    )
    print(f"{len(texts)} documents, {len(stream)} tokens, vocabulary of {tokenizer.get_vocab_size()}")


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


if __name__ == "__main__":
    run(tokenise_corpus)
