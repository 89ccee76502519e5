"""True and false statements from tables: capitals, opposites, sums and larger-than, affirmative and negated.

Every item gives two answers, its own and that of the next item. So each answer stands in as many true statements as in
false ones, and in each of the four statements of an item. A bag of words tells nothing. (For larger-than, both orders
of each pair are stated.) Training, calibration and scoring items share none (`common.data.corpora.judging_split` says
which are judged): the tables name them by split, all others are shuffled once and cut.

Four other topics (animals, letters, products, past tense) decide which layer is read, and nothing else.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, count, islice
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from common.core.errors import UserError
from common.core.files import read_yaml
from common.data.corpora import Split
from replications.probing.words import TABLES as WORDS

TOPICS = ("capitals", "opposites", "sums", "larger")
CALIBRATION_TOPICS = ("animals", "letters", "products", "past")
TABLES = Path(__file__).with_name("statements.yaml")
NUMBERS = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty twenty-one twenty-two twenty-three twenty-four twenty-five"
).split()
SHUFFLE = 41
FORMS = {
    "capitals": "The capital of {} is{} {}.",
    "opposites": "The opposite of {} is{} {}.",
    "sums": "The sum of {} is{} {}.",
    "larger": "The number {} is{} larger than {}.",
    "animals": "The {} is{} a {}.",
    "letters": "The letter {} is{} before {}.",
    "products": "The product of {} is{} {}.",
    "past": "The past tense of {} is{} {}.",
}
ORDERED = ("larger", "letters")
"""Topics whose false statements are the true ones the other way round."""


class Statement(NamedTuple):
    """One statement. `correct`: whether the item's own answer is in it; it is true if `correct` is not `negated`."""

    topic: str
    item: int
    split: Split
    negated: bool
    correct: bool
    text: str
    slots: tuple[str, str]
    """what stands before and behind the verb, without the words of the form"""

    @property
    def true(self) -> bool:
        return self.correct != self.negated

    @property
    def stem(self) -> str:
        """What it shares with other statements of its item."""
        return self.text.partition(" is")[0]


def items(topic: str, sizes: Mapping[Split, int]) -> dict[Split, list[tuple[str, str]]]:
    """Subject and own answer of the items of each split, as many as asked for. UserError if there are too few."""
    if topic in GENERATED or topic == "animals":
        rows = GENERATED[topic]() if topic in GENERATED else list(read_yaml(TABLES)[topic].items())
        drawn = iter(random.Random(SHUFFLE).sample(rows, min(sum(sizes.values()), len(rows))))
        found = {split: list(islice(drawn, size)) for split, size in sizes.items()}
    else:
        table = read_yaml(TABLES)[topic]
        found = {split: list(islice(table[split].items(), size)) for split, size in sizes.items()}
    for split, size in sizes.items():
        if len(found[split]) < size:
            raise UserError(
                f"topic '{topic}' has {len(found[split])} items of split '{split}', not {size}; ask for fewer"
            )
    return found


def _sums() -> list[tuple[str, str]]:
    """All sums of two numbers that have a word here, the smaller first: no sum is the mirror of another."""
    last = len(NUMBERS) - 1
    pairs = [(a, b) for a in range(1, last) for b in range(a, last + 1 - a)]
    return [(f"{NUMBERS[a]} and {NUMBERS[b]}", NUMBERS[a + b]) for a, b in pairs]


GENERATED: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "sums": _sums,
    "larger": lambda: [(str(a), str(b)) for a in range(11, 100) for b in range(11, a)],
    "letters": lambda: list(combinations(ascii_uppercase, 2)),
    "products": lambda: [(f"{a} and {b}", str(a * b)) for a in range(2, 13) for b in range(2, 13)],
    "past": lambda: list(read_yaml(WORDS)["past"].items()),
}


def statements(train: int, judged: int) -> list[Statement]:
    """All statements: per topic `judged` scoring items, as many calibration items, then `train` training items."""
    return _statements(TOPICS, {"held_out": judged, "validation": judged, "train": train})


def calibration_statements(train: int) -> list[Statement]:
    """Those that decide the layer: per calibration topic `train` items to fit a direction and as many to judge it."""
    return [row for row in _statements(CALIBRATION_TOPICS, {"train": train, "validation": train}) if not row.negated]


def _statements(topics: Sequence[str], sizes: Mapping[Split, int]) -> list[Statement]:
    found = []
    for topic in topics:
        number = count()
        for split, part in items(topic, sizes).items():
            for place, (subject, answer) in enumerate(part):
                item = next(number)
                other = next(row[1] for row in (part[place + 1 :] + part[:place]) if row[1] != answer)
                for negated in (False, True):
                    for correct in (True, False):
                        pair = (subject, answer if correct else other)
                        if topic in ORDERED and not correct:
                            pair = (answer, subject)
                        text = FORMS[topic].format(pair[0], " not" if negated else "", pair[1])
                        found.append(Statement(topic, item, split, negated, correct, text, pair))
    return found
