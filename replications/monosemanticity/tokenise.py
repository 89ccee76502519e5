"""Step: documents of the corpus as tokens of a vocabulary that is learned here by byte-pair encoding.

Out: the training stream, windows of held-out documents with the number of their document, and the tokens' texts. A
window is a stretch of one document; the first one of a document begins with the document token. Calibration seeds get
other held-out packages than scoring seeds.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.core.errors import UserError
from common.core.files import atomic, write_json
from common.core.step import Files, RunInfo, run_step
from common.data.bpe import drawn, learned, stream_of, token_texts
from common.data.corpora import judging_split, read_corpus
from replications.monosemanticity.settings import Text


class TokeniseFiles(Files):
    corpus: Path
    """its manifest"""
    tokens: Path
    vocabulary: Path
    """the text of every token"""


def tokenise(files: TokeniseFiles, settings: Text, run: RunInfo) -> None:
    """Writes tokens and vocabulary. UserError if the held-out documents give too few windows."""
    text, corpus = settings, files.corpus.parent
    texts = drawn(read_corpus(corpus, "train"), text.characters)
    tokenizer = learned(texts, text.d_vocab)
    stream = stream_of(tokenizer, texts)
    documents = read_corpus(corpus, judging_split(run.seeds))
    order = np.random.default_rng(1).permutation(len(documents))
    windows, document = windows_of(
        [[0, *one.ids] for one in tokenizer.encode_batch([documents[i].text for i in order])], text
    )
    if len(windows) < text.windows:
        raise UserError(
            f"the held-out documents give {len(windows)} windows of {text.length} tokens, not {text.windows}; "
            "lower 'windows' or 'length', or raise 'per_document'"
        )
    tables = {
        "train": np.array(stream, dtype=np.int32),
        "held_out": np.array(windows[: text.windows], dtype=np.int32),
        "document": np.array(document[: text.windows], dtype=np.int32),
    }
    with atomic(files.tokens) as temporary:
        save_file(tables, temporary)
    write_json(files.vocabulary, token_texts(tokenizer))
    print(f"{len(texts)} documents, {len(stream)} tokens, {len(set(document[: text.windows]))} held-out documents")


def windows_of(rows: list[list[int]], text: Text) -> tuple[list[list[int]], list[int]]:
    """Whole windows from the beginning of each row, at most `per_document` of one, and the number of their row."""
    windows, document = [], []
    for number, row in enumerate(rows):
        for start in range(0, min(len(row) // text.length, text.per_document) * text.length, text.length):
            windows.append(row[start : start + text.length])
            document.append(number)
    return windows, document


if __name__ == "__main__":
    run_step(tokenise)
