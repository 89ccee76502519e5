"""Text corpora: the registry `config/corpora.yaml`, how documents are stored, and the one function that reads them.

A corpus is a folder `resources/corpora/<name>/` with `train.jsonl`, `validation.jsonl`, `held_out.jsonl` and
`manifest.json` (SHA-256, documents and characters of each split). No document is in two splits, and no package
or topic that is held out is in another. Texts are data: escape them wherever HTML is made.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from common.core.errors import UserError
from common.core.files import read_json, read_yaml, sha256, write_json, write_text
from common.core.settings import ROOT, Strict, checked
from common.data.models import Sha256, check_file

CORPORA_FILE = ROOT / "config" / "corpora.yaml"
Split = Literal["train", "validation", "held_out"]
CALIBRATION_SEEDS = range(100, 200)  # they draw documents that no score sees; no other seed does
SPLITS: tuple[Split, ...] = ("held_out", "validation", "train")  # evaluation text comes first and wins over duplicates


def _complete(keys: tuple[str, ...]) -> AfterValidator:
    """Refuses a mapping in which one of `keys` is missing."""

    def check(found: dict[str, Any]) -> dict[str, Any]:
        if absent := [key for key in keys if key not in found]:
            raise ValueError(f"'{absent[0]}' is missing; needed are {', '.join(keys)}")
        return found

    return AfterValidator(check)


class Packages(Strict):
    """Docstrings and sources of installed pure-Python packages."""

    source: Literal["packages"]
    packages: Annotated[dict[Split, Annotated[list[str], Field(min_length=1)]], _complete(SPLITS)]
    near_duplicate_share: Annotated[float, Field(gt=0, le=1)]
    min_characters: Annotated[int, Field(ge=1)]
    max_characters: Annotated[int, Field(ge=1)]
    sha256: Annotated[dict[Split, Sha256], _complete(SPLITS)] = Field(
        description="expected SHA-256 of each split for the packages in the lock"
    )
    licence: str


class SelfChat(Strict):
    """Seeded conversations of a language model with itself as the assistant, shipped in `file`.

    Conversation `number` is about topic `number % topics` in round `number // topics`.
    """

    source: Literal["self_chat"]
    file: str
    sha256: Sha256
    model: str
    rounds: Annotated[int, Field(ge=1)]
    new_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(gt=0)]
    top_k: Annotated[int, Field(ge=1)]
    seed: int
    distinct_share: Annotated[float, Field(ge=0, le=1)]
    near_duplicate_share: Annotated[float, Field(gt=0, le=1)]
    licence: str
    requests: Annotated[list[str], Field(min_length=1)]
    topics: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(description="topics by field")

    @property
    def all_topics(self) -> list[str]:
        return [topic for field in self.topics.values() for topic in field]

    def topic(self, number: int) -> str:
        return self.all_topics[number % len(self.all_topics)]

    def request(self, number: int) -> str:
        """What conversation `number` asks."""
        topics = self.all_topics
        turn, topic = divmod(number, len(topics))
        return self.requests[(turn + topic) % len(self.requests)].format(topics[topic])

    def split(self, number: int) -> Split:
        """Of each field the first topic is held out, the seventh for validation; of all others rounds 7 and 3 of 12."""
        turn, at = divmod(number, len(self.all_topics))
        places = [place for field in self.topics.values() for place in range(len(field))]
        if places[at] in (0, 6):
            return "held_out" if places[at] == 0 else "validation"
        return {3: "validation", 7: "held_out"}.get(turn % 12, "train")  # type: ignore[return-value]


class CorporaFile(Strict):
    """The content of `config/corpora.yaml`."""

    corpora: dict[str, Annotated[Packages | SelfChat, Field(discriminator="source")]]


class Document(Strict):
    """One document. `group` is what the split was made by: a package or a topic."""

    id: str
    group: str
    kind: Literal["docstring", "source", "chat"]
    text: str


def corpus_entry(name: str) -> Packages | SelfChat:
    """One registered corpus. UserError naming the known ones."""
    known = checked(CorporaFile, read_yaml(CORPORA_FILE), CORPORA_FILE).corpora
    if name not in known:
        raise UserError(f"unknown corpus '{name}': config/corpora.yaml has {', '.join(known)}")
    return known[name]


def write_corpus(out: Path, name: str, splits: dict[Split, list[Document]], licence: str) -> None:
    """Writes the split files beside `out` (a `manifest.json`), then `out`."""
    content: dict[str, dict[str, int | str]] = {}
    for split, documents in splits.items():
        path = out.with_name(f"{split}.jsonl")
        write_text(path, as_lines(documents))
        characters = sum(len(document.text) for document in documents)
        content[split] = {"documents": len(documents), "characters": characters, "sha256": sha256(path)}
        print(f"{name}/{split}: {len(documents)} documents, {characters} characters")
    write_json(out, {"name": name, "licence": licence, "splits": content})


def as_lines(documents: list[Document]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(document.model_dump(), ensure_ascii=False) + "\n" for document in documents)


def text_hash(documents: list[Document]) -> str:
    """The SHA-256 that the split's file will have."""
    return hashlib.sha256(as_lines(documents).encode()).hexdigest()


def read_corpus(folder: Path, split: Split) -> list[Document]:
    """The documents of one split, checked against the manifest. UserError if the folder is incomplete or changed."""
    manifest, path = folder / "manifest.json", folder / f"{split}.jsonl"
    remedy = f"delete {folder} and run `make corpora`"
    try:
        expected = read_json(manifest)["splits"][split]["sha256"]
    except (KeyError, TypeError):
        raise UserError(f"{manifest} has no SHA-256 of the split '{split}'; {remedy}") from None
    check_file(path, expected, remedy=remedy)
    try:
        return [Document.model_validate_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValidationError:
        raise UserError(f"{path} has a line that is no document (id, group, kind, text); {remedy}") from None


def calibrating(seeds: list[int]) -> bool:
    """Whether a run on these seeds calibrates: it must not see what scores are made on."""
    return min(seeds) in CALIBRATION_SEEDS


def judging_split(seeds: list[int]) -> Split:
    """The split of documents on which results are measured."""
    return "validation" if calibrating(seeds) else "held_out"


def check_disjoint(splits: dict[Split, Iterable[Document]]) -> None:
    """UserError if a package or topic is in two splits."""
    seen: dict[str, Split] = {}
    for split, documents in splits.items():
        for group in {document.group for document in documents}:
            if seen.setdefault(group, split) != split:
                raise UserError(f"'{group}' is in the splits {seen[group]} and {split}; correct config/corpora.yaml")
