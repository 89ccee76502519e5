"""Step: documents of the corpus as tokens of a small vocabulary that is learned here by byte-pair encoding.

Small models need a small vocabulary: with the language model's own, their embeddings would hold nearly all weights.
Out: one file with the training stream and the first tokens of held-out documents, and the vocabulary's texts. Training
documents come in a random order, with the document token between them. Calibration seeds get other held-out packages
than scoring seeds.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.core.errors import UserError
from common.core.files import atomic, write_json
from common.core.step import run
from common.data.bpe import drawn, learned, stream_of, token_texts
from common.data.corpora import judging_split, read_corpus
from replications.induction_heads.text_settings import Tokens


def tokenise_corpus(*, corpus: Path, tokens: Tokens, seeds: list[int], out: Path, vocabulary: Path) -> None:
    """Writes `out` and `vocabulary` (a list of texts). UserError if too few held-out documents are long enough."""
    texts = drawn(read_corpus(corpus.parent, "train"), tokens.characters)
    tokenizer = learned(texts, tokens.d_vocab)
    stream = stream_of(tokenizer, texts)
    split = judging_split(seeds)
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
    write_json(vocabulary, token_texts(tokenizer))
    print(f"{len(texts)} documents, {len(stream)} tokens, vocabulary of {tokenizer.get_vocab_size()}")


if __name__ == "__main__":
    run(tokenise_corpus)
