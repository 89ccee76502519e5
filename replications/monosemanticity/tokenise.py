"""Step: documents of the corpus as tokens of a small vocabulary that is learned here by byte-pair encoding.

Out: the training stream, and the tokens' texts. Also windows of held-out documents with the number of their document
and, for every token, which patterns it lies in (`patterns.py`). A window is a stretch of one document. Calibration
seeds get other held-out packages than scoring seeds.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.core.errors import UserError
from common.core.files import atomic, write_json
from common.core.step import Files, RunInfo, run_step
from common.data.bpe import drawn, learned, stream_of, token_texts
from common.data.corpora import judging_split, read_corpus
from replications.monosemanticity.patterns import PATTERNS, labels
from replications.monosemanticity.settings import Text

READ = 6000  # characters of a held-out document


class TokeniseFiles(Files):
    corpus: Path
    """its manifest"""
    tokens: Path
    vocabulary: Path
    """the text of every token"""


def tokenise(files: TokeniseFiles, settings: Text, run: RunInfo) -> None:
    """Writes tokens, labels and vocabulary. UserError if the held-out documents give too few windows."""
    text, corpus, rng = settings, files.corpus.parent, np.random.default_rng(1)
    texts = drawn(read_corpus(corpus, "train"), text.characters)
    tokenizer = learned(texts, text.d_vocab)
    stream = stream_of(tokenizer, texts)
    documents = read_corpus(corpus, judging_split(run.seeds))
    windows, document, inside = [], [], []
    for number, place in enumerate(rng.permutation(len(documents))):
        content = documents[place].text[:READ]
        encoded = tokenizer.encode(content)
        found = labels(content, encoded.offsets)
        whole = len(encoded.ids) // text.length
        for start in np.sort(rng.permutation(whole)[: text.per_document]) * text.length:
            windows.append(encoded.ids[start : start + text.length])
            inside.append(found[start : start + text.length])
            document.append(number)
        if len(windows) >= text.windows:
            break
    if len(windows) < text.windows:
        raise UserError(
            f"the held-out documents give {len(windows)} windows of {text.length} tokens, not {text.windows}; "
            "lower 'windows' or 'length', or raise 'per_document'"
        )
    tables: dict[str, np.ndarray] = {
        "train": np.array(stream, dtype=np.int32),
        "held_out": np.array(windows[: text.windows], dtype=np.int32),
        "document": np.array(document[: text.windows], dtype=np.int32),
        "labels": np.array(inside[: text.windows], dtype=np.uint8),
    }
    with atomic(files.tokens) as temporary:
        save_file(tables, temporary)
    write_json(files.vocabulary, token_texts(tokenizer))
    print(f"{len(texts)} documents, {len(stream)} tokens, {len(set(document[: text.windows]))} held-out documents")
    for name, count in zip(PATTERNS, tables["labels"].sum((0, 1)).tolist(), strict=True):
        print(f"{name}: {count} held-out tokens")


if __name__ == "__main__":
    run_step(tokenise)
