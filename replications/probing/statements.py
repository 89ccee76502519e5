"""True and false statements from tables: capitals, opposites, sums and larger-than, affirmative and negated.

Every item gives two answers, its own and that of the next item, so that each answer stands in as many true statements
as in false ones, and in each of the four statements of an item; a bag of words tells nothing (for larger-than: of each
pair, both orders are stated). Items are shuffled once and cut into training, calibration and scoring items
(`common.data.corpora.judging_split` says which are judged).
"""

import random
from pathlib import Path
from typing import NamedTuple

from common.core.files import read_yaml
from common.data.corpora import Split

TOPICS = ("capitals", "opposites", "sums", "larger")
TABLES = Path(__file__).with_name("statements.yaml")
NUMBERS = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
SHUFFLE = 41
FORMS = {
    "capitals": "The capital of {} is{} {}.",
    "opposites": "The opposite of {} is{} {}.",
    "sums": "The sum of {} is{} {}.",
    "larger": "The number {} is{} larger than {}.",
}


class Statement(NamedTuple):
    """One statement. `correct`: whether the item's own answer is in it; it is true if `correct` is not `negated`."""

    topic: str
    item: int
    split: Split
    negated: bool
    correct: bool
    text: str

    @property
    def true(self) -> bool:
        return self.correct != self.negated


def items(topic: str, count: int) -> list[tuple[str, str]]:
    """Subject and own answer of `count` items, in the shuffled order."""
    draw = random.Random(SHUFFLE)
    if topic == "sums":
        rows = [(f"{NUMBERS[a]} and {NUMBERS[b]}", NUMBERS[a + b]) for a in range(1, 20) for b in range(1, 21 - a)]
    elif topic == "larger":
        rows = [(str(a), str(b)) for a in range(11, 100) for b in range(11, a)]
    else:
        rows = list(read_yaml(TABLES)[topic].items())
    return draw.sample(rows, count)


def statements(train: int, judged: int) -> list[Statement]:
    """All statements: per topic `train` training items, then `judged` calibration items and as many scoring items."""
    sizes: list[tuple[Split, int]] = [("train", train), ("validation", judged), ("held_out", judged)]
    found = []
    for topic in TOPICS:
        rows = items(topic, train + 2 * judged)
        start = 0
        for split, size in sizes:
            part = rows[start : start + size]
            for place, (subject, answer) in enumerate(part):
                other = next(row[1] for row in (part[place + 1 :] + part[:place]) if row[1] != answer)
                for negated in (False, True):
                    for correct in (True, False):
                        pair = (subject, answer if correct else other)
                        if topic == "larger" and not correct:
                            pair = (answer, subject)
                        text = FORMS[topic].format(pair[0], " not" if negated else "", pair[1])
                        found.append(Statement(topic, start + place, split, negated, correct, text))
            start += size
    return found
