"""What tells true from false statements of one topic without the residual stream: the strongest control of a direction.

There are three readers to choose from: the log-probability of the statement, its negative, and a bag of what stands in
the statement's two slots. The choice is made topic by topic on affirmative training statements, as the direction is
fitted; it is judged as the direction is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from replications.probing.directions import placements
from replications.probing.statements import Statement

RIDGE = 1.0
Scores = Float[np.ndarray, " item"]
Feature = tuple[int, int, str]


class TrivialReader(NamedTuple):
    """The reader that was chosen."""

    name: str
    area: float
    """on training statements; of the bag, each item read by a bag of the other items"""
    scores: Callable[[list[Statement], Scores], Scores]
    """of statements with their log-probabilities"""


def features(row: Statement) -> set[Feature]:
    """Slot, place and word; of a number slot, place and digit, and how many digits there are."""
    found = set()
    for slot, text in enumerate(row.slots):
        pieces = [*text] if text.isdigit() else text.split()
        found |= {(slot, place, piece) for place, piece in enumerate(pieces)} | {(slot, -1, str(len(pieces)))}
    return found


class Bag:
    """Ridge regression of the truth of affirmative statements on their features."""

    def __init__(self, rows: list[Statement]) -> None:
        self.names: list[Feature] = sorted(set().union(*map(features, rows)))
        x, y = self._matrix(rows), _true(rows).astype(float)
        x = x - x.mean(0)
        self.weight = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(self.names)), x.T @ (y - y.mean()))

    def __call__(self, rows: list[Statement]) -> Scores:
        """Rounded, so that statements of equal weight are ties."""
        return np.round(self._matrix(rows) @ self.weight, 9)

    def _matrix(self, rows: list[Statement]) -> Float[np.ndarray, "item feature"]:
        seen = [features(row) for row in rows]
        return np.array([[float(name in own) for name in self.names] for own in seen])


def trivial_reader(rows: list[Statement], log_probability: Scores) -> TrivialReader:
    """The reader with the largest area on affirmative training statements of one topic."""
    true, bag = _true(rows), Bag(rows)
    areas = {
        "log_probability": area(log_probability, true),
        "minus_log_probability": area(-log_probability, true),
        "slots": area(_left_out(rows), true),
    }
    scores: dict[str, Callable[[list[Statement], Scores], Scores]] = {
        "log_probability": lambda _, likely: likely,
        "minus_log_probability": lambda _, likely: -likely,
        "slots": lambda others, _: bag(others),
    }
    name = max(areas, key=lambda one: areas[one])
    return TrivialReader(name, areas[name], scores[name])


def area(scores: Scores, true: Bool[np.ndarray, " item"]) -> float:
    """Under the ROC curve."""
    return float(placements(scores, true).mean())


def _left_out(rows: list[Statement]) -> Scores:
    """Of each statement, by a bag of the statements of all other items."""
    found = np.empty(len(rows))
    for item in {row.item for row in rows}:
        own = [place for place, row in enumerate(rows) if row.item == item]
        found[own] = Bag([row for row in rows if row.item != item])([rows[place] for place in own])
    return found


def _true(rows: list[Statement]) -> Bool[np.ndarray, " item"]:
    return np.array([row.true for row in rows])
