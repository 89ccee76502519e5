"""Step: unpacks the corpus `self-chat`, conversations of the default model, into its three splits.

Some topics are held out whole, and of every other topic some conversations. So a dictionary or a direction can be
judged on a topic that it has met and on one that it has not. `sample_self_chat` made the file.
"""

import json
import lzma
from pathlib import Path

from common.core.step import Files, run_step
from common.data.corpora import SPLITS, Document, SelfChat, Split, corpus_entry, write_corpus
from common.data.models import chat_prompt, check_file, load_tokenizer


class SelfChatFiles(Files):
    model: Path
    registry: Path
    packed: Path
    """JSON lines {number, answer}, compressed with xz"""
    manifest: Path
    """of the corpus, written last"""


def self_chat(files: SelfChatFiles, name: str = "self-chat") -> None:
    """Writes the corpus. UserError if the packed file is not the one of the registry."""
    corpus = corpus_entry(name)
    assert isinstance(corpus, SelfChat)
    check_file(files.packed, corpus.sha256, remedy=f"restore it with `git checkout {corpus.file}`")
    tokenizer = load_tokenizer(files.model.parent)
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    with lzma.open(files.packed, "rt", encoding="utf-8") as lines:
        for number, answer in ((line["number"], line["answer"]) for line in map(json.loads, lines)):
            text = chat_prompt(tokenizer, corpus.request(number)) + answer
            document = Document(id=f"{name}/{number:05d}", group=corpus.topic(number), kind="chat", text=text)
            splits[corpus.split(number)].append(document)
    write_corpus(files.manifest, name, splits, corpus.licence)


if __name__ == "__main__":
    run_step(self_chat)
