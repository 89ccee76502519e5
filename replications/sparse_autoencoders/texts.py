"""Labelled windows of text for the probes: packages, code or documentation, chat, constructs, flagged calls.

All labels are read off the corpora or the text, so nothing is judged by a model. Documents that an SAE was trained on
are left out (chat: held-out and validation topics come first).

A *flagged* call is one that security linters warn about (the list is `FLAGGED`: `eval`, `exec`, unpickling, shells,
weak hashes, ...). That is a pattern in the text, not a proof of a weakness. Each is set beside an ordinary call of the
same package; both begin at the same place of their window, so what comes before, and what the name of the call itself
gives away, can be scored apart.
"""

import itertools
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from common.data.corpora import SPLITS, Document, read_corpus
from replications.sparse_autoencoders.settings import Supplement

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLAGGED = re.compile(
    r"(?<![\w.])(?<!def )(?:eval|exec|__import__)\(|\b(?:cP|p)ickle\.(?:loads?|Unpickler)\(|\bmarshal\.loads?\("
    r"|\byaml\.(?:load|unsafe_load)\(|\bhashlib\.(?:md5|sha1)\(|\bos\.(?:system|popen)\("
    r"|\bsubprocess\.(?:Popen|call|run|check_call|check_output|getoutput)\(|\btempfile\.mktemp\("
    r"|\brandom\.(?:random|randint|choice|choices|sample|shuffle)\(|\btorch\.load\(|\burlopen\("
)
HINTS = (
    "eval(",
    "exec(",
    "__import__(",
    "load",
    "Unpickler(",
    "hashlib.",
    "os.",
    "subprocess.",
    "mktemp(",
    "random.",
    "urlopen(",
)
ORDINARY = re.compile(r"(?<![\w.])(?<!def )(?<!class )[A-Za-z_][\w.]*\(")
CONSTRUCTS = {
    "class": re.compile(r"^\s*class \w", re.MULTILINE),
    "raise": re.compile(r"^\s*raise\b", re.MULTILINE),
    "loop": re.compile(r"^\s*(?:for|while)\b", re.MULTILINE),
}
TRIES = 10  # calls of one document that are looked at
BEFORE = 0.6  # a call begins after this share of the window
Piece = tuple[list[int], list[tuple[int, int]]]
"""Token ids and the characters that each of them covers."""


class Window(NamedTuple):
    """A few tokens with what is known about them. `call` is the first and the end token of a call's name."""

    tokens: list[int]
    text: str
    group: str
    document: str
    kind: str
    call: tuple[int, int] | None = None


class Padded(NamedTuple):
    """Right-padded windows."""

    tokens: Int[Tensor, "window pos"]
    real: Bool[Tensor, "window pos"]


def unseen(folder: Path, seen: set[int]) -> list[Document]:
    """Documents of all splits without the training documents of these numbers; held-out ones first."""
    return [
        document
        for split in SPLITS
        for at, document in enumerate(read_corpus(folder, split))
        if split != "train" or at not in seen
    ]


def pieces(tokenizer: "PreTrainedTokenizerBase", text: str) -> Piece:
    """The tokens of a text and where they stand in it."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return found["input_ids"], [tuple(span) for span in found["offset_mapping"]]


def cut(document: Document, piece: Piece, start: int, length: int, call: tuple[int, int] | None = None) -> Window:
    """The window of `length` tokens that begins at token `start`; `call` counts from there."""
    ids, spans = piece[0][start : start + length], piece[1][start : start + length]
    text = document.text[spans[0][0] : spans[-1][1]]
    return Window(ids, text, document.group, document.id, document.kind, call)


def plain_windows(
    documents: list[Document], tokenizer: "PreTrainedTokenizerBase", kind: str, count: int, length: int, seed: int
) -> Iterator[Window]:
    """At most `count` windows from distinct random documents of one kind, at least three quarters full."""
    dice = random.Random(f"{kind} {seed}")
    fitting = [document for document in documents if document.kind == kind]
    for document in dice.sample(fitting, len(fitting)):
        if count <= 0:
            return
        piece = pieces(tokenizer, document.text)
        if 4 * len(piece[0]) < 3 * length:
            continue
        count -= 1
        yield cut(document, piece, dice.randint(0, max(0, len(piece[0]) - length)), length)


def around(document: Document, piece: Piece, starts: list[int], match: re.Match[str], length: int) -> Window | None:
    """The window in which a call begins at its place; None if the text does not reach as far."""
    before = round(BEFORE * length)
    start = bisect_right(starts, match.start()) - 1 - before
    end = bisect_left(starts, match.end()) - start
    if start < 0 or start + length > len(starts):
        return None
    return cut(document, piece, start, length, (before, min(end, length)))


def flagged_calls(document: Document, tokenizer: "PreTrainedTokenizerBase", length: int) -> list[Window]:
    """Windows around flagged calls that do not overlap."""
    found: list[Window] = []
    matches = list(FLAGGED.finditer(document.text)) if any(hint in document.text for hint in HINTS) else []
    if not matches:
        return found
    piece, free = pieces(tokenizer, document.text), 0
    starts = [span[0] for span in piece[1]]
    for match in matches:
        window = around(document, piece, starts, match, length)
        if window is not None and match.start() >= free:
            found.append(window)
            free = match.start() + len(window.text)
    return found


def ordinary_call(
    document: Document, tokenizer: "PreTrainedTokenizerBase", length: int, dice: random.Random
) -> Window | None:
    """The window around a random call of a document; None if a few tries find none without a flagged call near it."""
    matches = list(ORDINARY.finditer(document.text))
    if not matches:
        return None
    piece = pieces(tokenizer, document.text)
    starts = [span[0] for span in piece[1]]
    for match in dice.sample(matches, min(TRIES, len(matches))):
        window = around(document, piece, starts, match, length)
        if window is not None and not FLAGGED.search(window.text):
            return window
    return None


def call_windows(
    documents: list[Document], tokenizer: "PreTrainedTokenizerBase", count: int, length: int, seed: int
) -> tuple[list[Window], list[Window]]:
    """Flagged calls, and as many ordinary calls of the same packages, from documents drawn at random."""
    dice = random.Random(f"calls {seed}")
    sources = [document for document in documents if document.kind == "source"]
    order = dice.sample(sources, len(sources))
    flagged = [one for document in order for one in flagged_calls(document, tokenizer, length)]
    flagged = dice.sample(flagged, min(count, len(flagged)))
    ordinary: list[Window] = []
    for group in sorted({one.group for one in flagged}):
        wanted = sum(one.group == group for one in flagged)
        for document in (document for document in order if document.group == group):
            if wanted <= 0:
                break
            if (found := ordinary_call(document, tokenizer, length, dice)) is not None:
                ordinary.append(found)
                wanted -= 1
    return flagged, ordinary


def pool(
    documents: list[Document], chat: list[Document], tokenizer: "PreTrainedTokenizerBase", sizes: Supplement, seed: int
) -> list[Window]:
    """All windows: source code and docstrings of each package, chat, flagged and ordinary calls."""
    found: list[Window] = []
    for package in sizes.packages:
        own = [document for document in documents if document.group == package]
        for kind, count in (("source", sizes.sources), ("docstring", sizes.docstrings)):
            found += plain_windows(own, tokenizer, kind, count, sizes.window, seed)
    talks = (cut(one, pieces(tokenizer, one.text), 0, sizes.window) for one in chat)  # held-out topics come first
    found += itertools.islice((talk for talk in talks if 2 * len(talk.tokens) >= sizes.window), sizes.chat)
    flagged, ordinary = call_windows(documents, tokenizer, sizes.calls, sizes.window, seed)
    return [
        *found,
        *(one._replace(kind="flagged") for one in flagged),
        *(one._replace(kind="ordinary") for one in ordinary),
    ]


def padded(windows: list[list[int]]) -> Padded:
    """Token lists side by side."""
    wide = max(map(len, windows))
    tokens = torch.tensor([one + [0] * (wide - len(one)) for one in windows])
    lengths = torch.tensor([len(one) for one in windows])
    return Padded(tokens, torch.arange(wide) < lengths[:, None])


class Task(NamedTuple):
    """A question with two answers about some of the windows. Test groups are never training groups."""

    name: str
    rows: Int[Tensor, " n"]
    label: Bool[Tensor, " n"]
    group: list[str]


def tasks(windows: list[Window], packages: list[str]) -> list[Task]:
    """The binary tasks; those about packages are split by document, all others by package or topic."""

    def task(name: str, chosen: list[tuple[int, bool]], by_document: bool = False) -> Task:
        rows = [row for row, _ in chosen]
        group = [windows[row].document if by_document else windows[row].group for row in rows]
        return Task(name, torch.tensor(rows), torch.tensor([label for _, label in chosen]), group)

    every = list(enumerate(windows))
    docs = [(row, one) for row, one in every if one.kind in ("source", "docstring")]
    source = [(row, one) for row, one in docs if one.kind == "source"]
    found = [task(f"from {name}", [(row, one.group == name) for row, one in docs], True) for name in packages]
    found.append(task("code, not docstring", [(row, one.kind == "source") for row, one in docs]))
    talk = [(row, one.kind == "chat") for row, one in every if one.kind in ("chat", "docstring")]
    found.append(task("chat, not docstring", talk))
    for name, pattern in CONSTRUCTS.items():
        found.append(task(f"has a {name}", [(row, bool(pattern.search(one.text))) for row, one in source]))
    calls = [(row, one.kind == "flagged") for row, one in every if one.call is not None]
    return [*found, task("flagged call", calls)]
