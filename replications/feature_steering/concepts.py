"""Concepts with labels that need no judge: documented modules. Which documents serve for what, and neutral prompts.

A concept is a Python module (package and first folder, `sympy.geometry`); its documents are that module's docstrings in
the training split of `python-docs`. The label is where a docstring was written, so nobody decides what it is about.
"""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.core.errors import UserError
from common.data.corpora import Document, read_corpus
from common.data.models import encode
from replications.feature_steering.settings import Concepts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START = "<|endoftext|>"
NEUTRAL = (
    *("This module", "Return the", "A class that", "Compute the", "This function takes", "Create a new"),
    *(
        "Check whether the",
        "This is a",
        "The following",
        "Convert the given",
        "Represents the",
        "A helper function for",
    ),
    *("Find all", "This method", "Given a", "Get the name of", "Base class for", "An example of"),
    *("Used to", "Raised when", "In this section", "Here we", "If the argument is", "One of the"),
)
"""Beginnings of documents that fit any module. Even places are for choosing a length, odd ones for scoring."""


class Concept(NamedTuple):
    """One concept and its documents as tokens, by purpose."""

    name: str
    parts: dict[str, list[list[int]]]


def start(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that raw text begins with: <|endoftext|> where there is one (SmolLM2, GPT-2), otherwise the tokenizer's
    own. UserError if it has none."""
    found = tokenizer.get_vocab().get(START, tokenizer.bos_token_id)
    if found is None:
        raise UserError("this model's tokenizer has no token to begin a text with; steer another model")
    return int(found)


def module_of(document: Document) -> str:
    """The module of a docstring: `sympy/geometry/line.py#Line:12` gives sympy.geometry."""
    return ".".join(document.id.split("#")[0].split("/")[:2]).removesuffix(".py")


def choose(folder: Path, tokenizer: "PreTrainedTokenizerBase", settings: Concepts) -> list[Concept]:
    """The modules with the most docstrings that are long enough, each with its documents dealt out at random.

    UserError if the corpus has too few modules with enough documents.
    """
    sizes = {part: getattr(settings, part) for part in ("training", "judging", "scaling", "texts")}
    first = start(tokenizer)
    needed = sum(sizes.values())
    found: dict[str, list[str]] = defaultdict(list)
    for document in read_corpus(folder, "train"):
        if document.kind == "docstring":
            found[module_of(document)].append(document.text)
    concepts: list[Concept] = []
    for name, texts in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(texts) < needed or len(concepts) == settings.count:
            break
        order = np.random.default_rng(0).permutation(len(texts))
        drawn: list[list[int]] = []
        for place in order:
            tokens = encode(tokenizer, texts[place])
            if len(tokens) >= settings.tokens:
                drawn.append([first, *tokens[: 4 * settings.tokens]])
            if len(drawn) == needed:
                edges = np.cumsum([0, *sizes.values()])
                parts = {part: drawn[edges[at] : edges[at + 1]] for at, part in enumerate(sizes)}
                concepts.append(Concept(name, parts))
                break
    if len(concepts) < settings.count:
        raise UserError(
            f"{folder} has {len(concepts)} modules with {needed} docstrings of at least {settings.tokens} tokens, not "
            f"{settings.count}; lower count, or the numbers of documents, in replications/feature_steering/config.yaml"
        )
    return concepts


def neutral_prompts(tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Tokens of every neutral beginning."""
    first = start(tokenizer)
    return [[first, *encode(tokenizer, text)] for text in NEUTRAL]


def header(tokenizer: "PreTrainedTokenizerBase", name: str) -> list[int]:
    """The prompt instruction: what precedes a docstring of the module in its documentation."""
    return [start(tokenizer), *encode(tokenizer, f"Documentation of the Python module {name}.\n\n")]


def draw_prompts(concept: int, seed: int, which: int, count: int) -> list[int]:
    """Places in `NEUTRAL` of the prompts of one concept, seed and half (0: for choosing lengths, 1: for scoring)."""
    own = np.arange(which, len(NEUTRAL), 2)
    return sorted(map(int, np.random.default_rng([seed, concept, which]).permutation(own)[:count]))
