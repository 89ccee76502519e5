"""Step: documents of the corpus as tokens of a small vocabulary that is learned here by byte-pair encoding.

Small models need a small vocabulary: with the language model's own, their embeddings would hold nearly all weights.
Out: one file with the training stream and stretches of held-out documents from random places, and the vocabulary's
texts. Training documents come in a random order, with the document token between them. Calibration seeds
get other held-out packages than scoring seeds.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.core.errors import UserError
from common.core.files import atomic, write_json
from common.core.step import Files, RunInfo, run_step
from common.data.bpe import drawn, learned, stream_of, token_texts
from common.data.corpora import Document, Split, judging_split, read_corpus
from replications.induction_heads.settings import Tokens

STRETCHES = 2  # of each held-out document


class TokeniseFiles(Files):
    corpus: Path
    """manifest of the corpus"""
    tokens: Path
    vocabulary: Path
    """texts of the tokens"""


def tokenise_corpus(files: TokeniseFiles, settings: Tokens, run: RunInfo) -> None:
    """Writes both files. UserError if too few held-out documents are long enough."""
    texts = drawn(sources(files.corpus.parent, "train"), settings.characters)
    tokenizer = learned(texts, settings.d_vocab)
    stream = stream_of(tokenizer, texts)
    split = judging_split(run.seeds)
    held = [document.text for document in sources(files.corpus.parent, split)]
    rows = [one.ids for one in tokenizer.encode_batch(held) if len(one.ids) >= settings.length]
    if len(rows) < settings.held_out:
        raise UserError(
            f"only {len(rows)} held-out documents have {settings.length} tokens; lower 'held_out' or 'length'"
        )
    rng = np.random.default_rng(1)
    chosen = [rows[index] for index in rng.permutation(len(rows))[: settings.held_out] for _ in range(STRETCHES)]
    starts = [int(rng.integers(len(row) - settings.length + 1)) for row in chosen]
    stretches = [row[start : start + settings.length] for row, start in zip(chosen, starts, strict=True)]
    with atomic(files.tokens) as temporary:
        held_out = np.array(stretches, dtype=np.int32)
        save_file({"train": np.array(stream, dtype=np.int32), "held_out": held_out}, temporary)
    write_json(files.vocabulary, token_texts(tokenizer))
    print(f"{len(texts)} documents, {len(stream)} tokens, vocabulary of {tokenizer.get_vocab_size()}")


def sources(folder: Path, split: Split) -> list[Document]:
    """Documents with program text and no docstrings, where names come back most."""
    return [document for document in read_corpus(folder, split) if document.kind == "source"]


if __name__ == "__main__":
    run_step(tokenise_corpus)
