"""The IOI data set: prompts, counterfactual partners, and the positions that matter (Wang et al. 2022, section 2).

Two names open a prompt, the subject S is repeated, and the answer is the other name, IO. In order ABBA the IO is
named first, in BABA the S. Every prompt comes in four versions with the same length and the same positions:

    original        "... Mary and John ..., John gave a ring to"       answer Mary
    abc             three other names: nothing tells who receives      no answer; scored on Mary and John
    nouns_redrawn   other place and object, same names                 answer Mary
    roles_flipped   "... Mary and John ..., Mary gave a ring to"       answer John: only S2 is another name

Templates and names are split into two halves which share neither template nor name, so that what is found on one half
can be tested on the other. Names of scored prompts never occur in calibration (`names_for`). Deviations from the
released code: it draws the abc names without a guard against collisions; here the five names of a prompt are distinct.
It cuts its mixed set to the first seven templates of each order; here all 44 templates appear equally often in both
orders.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.core.errors import UserError
from common.core.files import read_json
from common.core.settings import Strict, checked
from common.data.corpora import calibrating
from common.data.models import encode
from replications.ioi_circuit.templates import NAMES, OBJECTS, PLACES, SCORED_NAMES, TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Version = Literal["original", "abc", "roles_flipped", "nouns_redrawn"]
VERSIONS: tuple[Version, ...] = ("original", "abc", "roles_flipped", "nouns_redrawn")
ORDERS: tuple[Literal["ABBA", "BABA"], ...] = ("ABBA", "BABA")
MINIMUM_NOUNS = 3
TRIES = 200
CIRCUIT_SEEDS = 1000
"""The circuit is searched and tested on prompts drawn from seed + this, never used before its rules were fixed."""
STEM = "Then"


class Positions(Strict):
    """Token indices, counted from 0. `end` is the last real token, whose prediction is the answer."""

    io: int
    s1: int
    s1_next: int
    s2: int
    end: int


class Text(Strict):
    """One version of a prompt. `tokens` is padded on the right; `Prompt.attention` says which tokens are real."""

    text: str
    tokens: list[int]


class Prompt(Strict):
    """One prompt with its partners. All versions share attention and positions."""

    seed: int
    template: int
    order: Literal["ABBA", "BABA"]
    half: Literal[0, 1]
    io: str
    s: str
    io_id: int
    s_id: int
    abc: list[str]
    place: str
    object: str
    attention: list[Literal[0, 1]]
    positions: Positions
    versions: dict[Version, Text]

    @property
    def abc_ids(self) -> tuple[int, int, int]:
        """Token ids of the three names in the slots of IO, S1 and S2 of the ABC version."""
        tokens = self.versions["abc"].tokens
        return tokens[self.positions.io], tokens[self.positions.s1], tokens[self.positions.s2]


class PromptFile(Strict):
    """Content of `prompts.json`. `circuit_prompts` are a draw of their own (seed + `CIRCUIT_SEEDS`)."""

    names: list[str]
    places: list[str]
    objects: list[str]
    special_tokens_added: Literal[False]
    prompts: list[Prompt]
    circuit_prompts: list[Prompt]


@dataclass(frozen=True)
class Vocabulary:
    """Words that are one token after a space, with their token ids, and the tokenizer that says so."""

    encode: Callable[[str], list[int]]
    pad_id: int
    names: Mapping[str, int]
    places: Mapping[str, int]
    objects: Mapping[str, int]

    def names_of_half(self, half: int) -> list[str]:
        return list(self.names)[half::2]


def names_for(seeds: list[int]) -> tuple[str, ...]:
    """The names that prompts of these seeds may have: those of calibration, or those kept for scoring."""
    return NAMES if calibrating(seeds) else SCORED_NAMES


def vocabulary(tokenizer: "PreTrainedTokenizerBase", minimum_names: int, names: tuple[str, ...] = NAMES) -> Vocabulary:
    """Of `names` and all places and objects those that `tokenizer` writes as one token inside a sentence.

    Raises:
        UserError: fewer than `minimum_names` names or `MINIMUM_NOUNS` places or objects are left.
    """
    words_of = {"names": names, "places": PLACES, "objects": OBJECTS}
    single_tokens = {kind: _single_tokens(tokenizer, words) for kind, words in words_of.items()}
    for kind, words in single_tokens.items():
        needed = minimum_names if kind == "names" else MINIMUM_NOUNS
        if len(words) < needed:
            raise UserError(
                f"this tokenizer writes {len(words)} of our {len(words_of[kind])} {kind} as one token and needs "
                f"{needed}: add {kind} to replications/ioi_circuit/templates.py, lower minimum_names, or leave the "
                "model out"
            )
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad_id = next(token for token in candidates if token is not None)
    return Vocabulary(encode=lambda text: encode(tokenizer, text), pad_id=pad_id, **single_tokens)


def _single_tokens(tokenizer: "PreTrainedTokenizerBase", words: tuple[str, ...]) -> dict[str, int]:
    """Encoded inside a text: some tokenizers treat the start of a text in a special way."""
    stem = encode(tokenizer, STEM)
    ids: dict[str, int] = {}
    for word in words:
        *before, last = encode(tokenizer, f"{STEM} {word}")
        if before == stem and last != tokenizer.unk_token_id and last not in ids.values():
            ids[word] = last
    return ids


def draw_prompts(
    words: Vocabulary,
    seeds: list[int],
    per_cell: int,
    circuit_per_cell: int | None = None,
    templates: int | None = None,
) -> list[Prompt]:
    """`per_cell` prompts for each seed, template and order, all different; the same seed gives the same prompts.

    Seeds from `CIRCUIT_SEEDS` on have `circuit_per_cell` prompts, if that is given. Of the templates the first
    `templates` are used, or all.

    Raises:
        UserError: the tokenizer splits versions of a prompt differently, or the words are too few for so many prompts.
    """
    prompts: list[Prompt] = []
    texts: set[str] = set()
    for seed in seeds:
        generator = np.random.default_rng(seed)
        for template in range(templates or len(TEMPLATES)):
            for order in ORDERS:
                for _ in range(per_cell if seed < CIRCUIT_SEEDS else circuit_per_cell or per_cell):
                    drawn = (_draw(words, generator, seed, template, order) for _ in range(TRIES))
                    prompt = next((new for new in drawn if new.versions["original"].text not in texts), None)
                    if prompt is None:
                        raise UserError(
                            "too few names for so many different prompts: lower per_cell or use fewer seeds"
                        )
                    texts.add(prompt.versions["original"].text)
                    prompts.append(prompt)
    longest = max(prompt.positions.end + 1 for prompt in prompts)
    return [_padded(prompt, longest, words.pad_id) for prompt in prompts]


def _draw(
    words: Vocabulary, generator: np.random.Generator, seed: int, template: int, order: Literal["ABBA", "BABA"]
) -> Prompt:
    half: Literal[0, 1] = 1 if template % 2 else 0
    io, s, a, b, c = map(str, generator.choice(words.names_of_half(half), 5, replace=False))
    place, other_place = map(str, generator.choice(list(words.places), 2, replace=False))
    thing, other_thing = map(str, generator.choice(list(words.objects), 2, replace=False))

    def version(io: str, s1: str, s2: str, place: str, thing: str) -> tuple[Text, Positions]:
        first, second = (io, s1) if order == "ABBA" else (s1, io)
        text = TEMPLATES[template].format(first=first, second=second, subject=s2, place=place, object=thing)
        tokens = words.encode(text)
        return Text(text=text, tokens=tokens), _locate(
            tokens, (words.names[io], words.names[s1], words.names[s2]), text
        )

    made: dict[Version, tuple[Text, Positions]] = {
        "original": version(io, s, s, place, thing),
        "abc": version(a, b, c, place, thing),
        "nouns_redrawn": version(io, s, s, other_place, other_thing),
        "roles_flipped": version(io, s, io, place, thing),
    }
    text, positions = made["original"]
    for other, located in made.values():
        if located != positions:
            raise UserError(
                f"this tokenizer splits two versions of a prompt differently, '{text.text}' and '{other.text}'; "
                "take the word that differs out of replications/ioi_circuit/templates.py"
            )
    return Prompt(
        seed=seed,
        template=template,
        order=order,
        half=half,
        io=io,
        s=s,
        io_id=words.names[io],
        s_id=words.names[s],
        abc=[a, b, c],
        place=place,
        object=thing,
        attention=[1] * len(text.tokens),
        positions=positions,
        versions={name: other for name, (other, _) in made.items()},
    )


def _locate(tokens: list[int], names: tuple[int, int, int], text: str) -> Positions:
    """Finds the three names. UserError unless each occurs exactly as often as the text says."""
    io, s1, s2 = names
    for token, count in Counter(names).items():
        if tokens.count(token) != count:
            raise UserError(
                f"this tokenizer does not write each name of '{text}' as the one token it has elsewhere; "
                "take that name out of replications/ioi_circuit/templates.py"
            )
    io_at, first = tokens.index(io), tokens.index(s1)
    second = tokens.index(s2, max(io_at, first) + 1)
    return Positions(io=io_at, s1=first, s1_next=first + 1, s2=second, end=len(tokens) - 1)


def _padded(prompt: Prompt, length: int, pad_id: int) -> Prompt:
    missing = length - len(prompt.attention)
    versions = {
        name: Text(text=version.text, tokens=version.tokens + [pad_id] * missing)
        for name, version in prompt.versions.items()
    }
    return prompt.model_copy(update={"attention": prompt.attention + [0] * missing, "versions": versions})


def read_prompts(path: Path, which: Literal["prompts", "circuit_prompts"] = "prompts") -> list[Prompt]:
    """The prompts of a `prompts.json`. UserError if the file breaks its schema."""
    rows: list[Prompt] = getattr(read_file(path), which)
    return rows


def read_file(path: Path) -> PromptFile:
    """All of a `prompts.json`. UserError if it breaks its schema."""
    return checked(PromptFile, read_json(path), path)
