"""Word pairs of the four in-context tasks, and their prompts.

A pair is used if each form, behind a space, is one token, and the two differ. Antonyms go both ways; the two directions
of a pair are one cluster and stay in one split. Splits as for statements: training words give demonstrations and
queries of the vectors, calibration and scoring words are judged.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.core.errors import UserError
from common.core.files import read_yaml
from common.data.corpora import Split

TASKS = ("plural", "past", "antonym", "capitalise")
TABLES = Path(__file__).with_name("words.yaml")
SHUFFLE = 41


class Pair(NamedTuple):
    """A word and its answer; `cluster` is shared by the two directions of an antonym."""

    word: str
    answer: str
    cluster: str


def pairs(task: str, encode: Callable[[str], list[int]]) -> list[Pair]:
    """All pairs of a task that are single tokens, shuffled by cluster."""
    tables = read_yaml(TABLES)
    if task == "capitalise":
        rows = [(word, word.capitalize()) for word in dict.fromkeys([*tables["plural"], *tables["past"]])]
    elif task == "antonym":
        rows = [row for pair in tables["antonym"].items() for row in (pair, pair[::-1])]
    else:
        rows = list(tables[task].items())
    found: dict[str, list[Pair]] = {}
    for word, answer in rows:
        ids = encode(f" {word}"), encode(f" {answer}")
        if len(ids[0]) == len(ids[1]) == 1 and ids[0] != ids[1]:
            cluster = " ".join(sorted((word, answer)))
            found.setdefault(cluster, []).append(Pair(word, answer, f"{task}: {cluster}"))
    clusters = list(found)
    random.Random(SHUFFLE).shuffle(clusters)
    return [pair for cluster in clusters for pair in found[cluster]]


def split_pairs(task: str, encode: Callable[[str], list[int]], train: int, judged: int) -> dict[Split, list[Pair]]:
    """Training, calibration and scoring pairs, no cluster in two of them. UserError if the tokenizer leaves too few."""
    rows = pairs(task, encode)
    found: dict[Split, list[Pair]] = {"train": [], "validation": [], "held_out": []}
    sizes = {"train": train, "validation": judged, "held_out": judged}
    used: set[str] = set()
    for split, part in found.items():
        for row in rows:
            if row.cluster not in used and len(part) < sizes[split]:
                part.extend(other for other in rows if other.cluster == row.cluster)
                used.add(row.cluster)
        if len(part) < sizes[split]:
            raise UserError(f"the task '{task}' has {len(rows)} words of one token with this tokenizer; too few")
    return found


def prompt(demonstrations: list[Pair]) -> str:
    """Demonstrations, one a line; a query ` word:` follows."""
    return "".join(f" {pair.word}: {pair.answer}\n" for pair in demonstrations)


def mismatched(demonstrations: list[Pair], draw: random.Random) -> list[Pair]:
    """The same words and answers, each answer behind another word."""
    order = draw.sample(demonstrations, len(demonstrations))
    following = {pair: order[(place + 1) % len(order)] for place, pair in enumerate(order)}
    return [pair._replace(answer=following[pair].answer) for pair in demonstrations]
