"""One-line requests by topic, and who sees which: `lists.yaml` crossed and split.

A line is a shape filled with a phrase ("How do I {}?" with "steal a car"). Harmful, harmless and risky-word lines share
the shapes, so grammar does not tell them apart. Harmful phrases name an intent and hold no detail. Whole topics are
held out (`HELD_OUT`), rotated by seed; so are half of the refusal texts, by first word.

From the remaining topics come three disjoint sets: lines to fine-tune on, lines to estimate directions from, lines to
choose among candidates on. Every phrase occurs once before any phrase occurs again.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from common.core.errors import UserError
from common.core.files import read_yaml
from common.core.settings import Strict, checked
from replications.refusal_direction.settings import SplitSettings

Class = Literal["harmful", "harmless", "risky", "food"]
Topics = dict[str, Annotated[list[str], Field(min_length=1)]]
LISTS = Path(__file__).with_name("lists.yaml")
# lines, topics
MINIMUM = {"harmful": (256, 10), "harmless": (256, 10), "risky": (64, 9), "food": (256, 10)}
HELD_OUT = {"harmful": 7, "harmless": 8, "risky": 3, "food": 7}  # topics of a seed: 3 seeds have 21 or more clusters
MINIMUM_REFUSALS = (20, 6)  # texts, different first words


class Lists(Strict):
    """The content of `lists.yaml`."""

    shapes: Annotated[list[Annotated[str, Field(pattern=r"\{\}")]], Field(min_length=2)]
    classes: dict[Class, Annotated[Topics, Field(min_length=2)]]
    refusals: Annotated[list[str], Field(min_length=1)]


class Line(NamedTuple):
    """One request."""

    topic: str
    text: str


class Split(NamedTuple):
    """The lines of one class: three disjoint sets of the same topics, and one of held-out topics."""

    tune: list[Line]
    estimate: list[Line]
    choose: list[Line]
    test: list[Line]


class Prompts(NamedTuple):
    """Everything one seed sees. `switch` holds the class that is to be refused: harmful, or food for the sham model."""

    switch: Split
    harmless: Split
    risky: Split
    other: list[Line]
    refusals: list[str]


def load_lists(path: Path = LISTS) -> Lists:
    """The checked lists. UserError for empty, short or overlapping ones, and for what occurs twice."""
    lists = checked(Lists, read_yaml(path), path)
    seen: dict[str, str] = {}
    for name, topics in lists.classes.items():
        lines = sum(map(len, topics.values())) * len(lists.shapes)
        if lines < MINIMUM[name][0] or len(topics) < MINIMUM[name][1]:
            raise UserError(
                f"{path}: '{name}' gives {lines} lines in {len(topics)} topics; "
                f"{MINIMUM[name][0]} lines in {MINIMUM[name][1]} topics are needed"
            )
        for topic, phrases in topics.items():
            for phrase in phrases:
                if phrase.casefold() in seen:
                    other = seen[phrase.casefold()]
                    raise UserError(f"{path}: '{phrase}' is in '{other}' and again in '{name}.{topic}'; keep one")
                seen[phrase.casefold()] = f"{name}.{topic}"
    texts = [text.casefold() for text in lists.refusals]
    if twice := [text for number, text in enumerate(texts) if text in texts[:number]]:
        raise UserError(f"{path}: the refusal text '{twice[0]}' is listed twice; keep one")
    words = {first_word(text) for text in lists.refusals}
    if len(lists.refusals) < MINIMUM_REFUSALS[0] or len(words) < 2 * MINIMUM_REFUSALS[1]:
        raise UserError(
            f"{path}: {len(lists.refusals)} refusal texts with {len(words)} first words; "
            f"{MINIMUM_REFUSALS[0]} texts with {2 * MINIMUM_REFUSALS[1]} first words are needed, half of them held out"
        )
    return lists


def draw(seed: int, settings: SplitSettings, switch: Class = "harmful", lists: Lists | None = None) -> Prompts:
    """The prompts of one seed. `switch` is the class that the model is taught to refuse."""
    known = lists or load_lists()
    test = settings.test
    other: Class = "food" if switch == "harmful" else "harmful"
    words = list(dict.fromkeys(first_word(text) for text in known.refusals))
    trained = set(_rotated(words, seed * 5)[: len(words) // 2])
    texts = [text for text in known.refusals if first_word(text) in trained]
    random.Random(f"texts {seed}").shuffle(texts)
    return Prompts(
        switch=_split(known, switch, seed, settings.tune, settings.estimate, settings.choose, test),
        harmless=_split(known, "harmless", seed, settings.harmless_tune, settings.estimate, settings.choose, test),
        risky=_split(known, "risky", seed, settings.risky_tune, 0, 0, settings.risky_test),
        other=_split(known, other, seed, 0, settings.estimate, 0, test).estimate,
        refusals=texts,
    )


def first_word(text: str) -> str:
    """The first word without what follows an apostrophe or a mark: "I'm" and "I" open alike, "No," and "No." too."""
    return text.split()[0].split("'")[0].rstrip(",.;:!")


def _split(lists: Lists, name: Class, seed: int, tune: int, estimate: int, choose: int, test: int) -> Split:
    topics = list(lists.classes[name])
    share = HELD_OUT[name]
    held_out = set(_rotated(topics, seed * share)[:share])
    draws = random.Random(f"{name} {seed}")
    trained = _rounds(lists, name, lambda topic: topic not in held_out, draws)
    unseen = _rounds(lists, name, lambda topic: topic in held_out, draws)
    needed = tune + estimate + choose
    if needed > len(trained) or test > len(unseen):
        raise UserError(
            f"this needs {needed} lines of the trained topics of '{name}' and {test} of its held-out ones; "
            f"there are {len(trained)} and {len(unseen)}: lower the numbers in config.yaml or extend lists.yaml"
        )
    return Split(
        tune=trained[:tune],
        estimate=trained[tune : tune + estimate],
        choose=trained[tune + estimate : needed],
        test=alternating(unseen)[:test],
    )


def alternating(lines: Sequence[Line]) -> list[Line]:
    """Topics in turn, the lines of each in their order, so that few lines are of all topics alike."""
    turn: dict[str, int] = {}
    turns = []
    for line in lines:
        turns.append(turn.setdefault(line.topic, 0))
        turn[line.topic] += 1
    return [line for _, line in sorted(zip(turns, lines, strict=True), key=lambda pair: pair[0])]


def _rounds(lists: Lists, name: Class, wanted: Callable[[str], bool], draws: random.Random) -> list[Line]:
    """All lines of the wanted topics: round after round every phrase once, each time in a shape it did not have yet."""
    phrases = [(topic, phrase) for topic, group in lists.classes[name].items() if wanted(topic) for phrase in group]
    shapes = {phrase: draws.sample(lists.shapes, len(lists.shapes)) for _, phrase in phrases}
    rounds = []
    for number in range(len(lists.shapes)):
        order = draws.sample(phrases, len(phrases))
        rounds += [Line(topic, shapes[phrase][number].format(phrase)) for topic, phrase in order]
    return rounds


def _rotated(items: Sequence[str], by: int) -> list[str]:
    start = by % len(items)
    return [*items[start:], *items[:start]]
