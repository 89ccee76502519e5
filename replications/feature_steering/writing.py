"""Which texts are written: every row of the comparison and of the removal, and how rows are read again.

Comparison: each concept and dial continues neutral prompts, half of them at the common and the chosen multiplier, and
some dials the other half at every multiplier; the unsteered model continues every prompt several times. Removal:
beginnings of documents on a concept are continued under interventions that push its latent down. All dials of a
concept, prompt and seed share their random numbers.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.sae import Sae
from common.steering import Kind, Steering
from replications.feature_steering.concepts import NEUTRAL, draw_prompts, half
from replications.feature_steering.settings import (
    CHOOSING,
    CHOSEN,
    CURVES,
    DIALS,
    INSTRUCTION,
    NO_DIAL,
    OF_A_SEED,
    REMOVALS,
    REMOVING,
    SCORING,
    Writing,
)

OWN_STREAMS = 10**6  # unsteered texts have random numbers of their own


class Row(NamedTuple):
    """One text to write. `prompt` and `neutral` are places in the list of prompts: what it continues, and what it is
    read after. Rows of one seed and `stream` share their random numbers."""

    seed: int
    part: str
    concept: int
    dial: str
    multiplier: float
    prompt: int
    neutral: int
    stream: int


def unsteered(seed: int, writing: Writing) -> Iterator[Row]:
    """Every neutral prompt several times: what all others are compared with."""
    for prompt in range(len(NEUTRAL)):
        for copy in range(writing.unsteered):
            part = (CHOOSING, SCORING)[half(prompt)]
            yield Row(seed, part, -1, NO_DIAL, 0.0, prompt, prompt, OWN_STREAMS + prompt * writing.unsteered + copy)


def choosing(concepts: int, seed: int, writing: Writing) -> Iterator[Row]:
    """The dials of `CURVES` at every multiplier."""
    for concept in range(concepts):
        for prompt in draw_prompts(concept, seed, 0, writing.choosing):
            for dial in CURVES:
                for multiplier in writing.multipliers:
                    yield Row(seed, CHOOSING, concept, dial, multiplier, prompt, prompt, prompt * concepts + concept)


def scoring(concepts: int, seed: int, writing: Writing, chosen: dict[str, float]) -> Iterator[Row]:
    """Every dial at the common multiplier, some at their chosen one too (unless that is 0), and the instruction.

    Instructed prompts follow the neutral ones in the list of prompts, concept by concept.
    """
    for concept in range(concepts):
        for prompt in draw_prompts(concept, seed, 1, writing.scoring):
            stream = prompt * concepts + concept
            instructed = len(NEUTRAL) * (concept + 1) + prompt
            yield Row(seed, SCORING, concept, INSTRUCTION, 0.0, instructed, prompt, stream)
            for dial in DIALS:
                own = {writing.equal, chosen[dial]} if dial in CHOSEN else {writing.equal}
                for multiplier in sorted(own - {0.0}):
                    yield Row(seed, SCORING, concept, dial, multiplier, prompt, prompt, stream)


def removal(concepts: int, texts: int, seed: int, seeds: list[int], first: int, multiplier: float) -> Iterator[Row]:
    """Rows of one seed: its share of each concept's texts, which begin at place `first` of the list of prompts."""
    own = range(seeds.index(seed), texts, len(seeds))
    for concept in range(concepts):
        for text in own:
            prompt = first + concept * texts + text
            yield Row(seed, REMOVING, concept, NO_DIAL, 0.0, prompt, prompt, prompt)
            yield Row(seed, REMOVING, concept, NO_DIAL, 0.0, prompt, prompt, OWN_STREAMS + prompt)
            for arm in REMOVALS:
                yield Row(seed, REMOVING, concept, arm, -multiplier, prompt, prompt, prompt)


def steering(rows: list[Row], prepared: dict[str, Tensor], sae: Sae) -> list[tuple[list[int], Steering | None]]:
    """Rows grouped by part and kind of intervention, with the group's intervention. None leaves the model alone."""
    kinds: dict[tuple[Kind | None, bool], list[int]] = {}
    for place, row in enumerate(rows):
        kinds.setdefault((kind_of(row), row.part == REMOVING), []).append(place)
    groups: list[tuple[list[int], Steering | None]] = []
    for (kind, _), places in kinds.items():
        if kind is None:
            groups.append((places, None))
            continue
        chosen = [rows[place] for place in places]
        direction = torch.stack([vector(row, prepared) for row in chosen])
        length = torch.tensor([row.multiplier for row in chosen]) * float(prepared["norm"])
        if kind in ("add", "project"):
            strength = length if kind == "add" else torch.zeros_like(length)
            groups.append((places, Steering(kind, strength, direction=direction)))
            continue
        latent = torch.stack([latent_of(row, prepared) for row in chosen])
        strength = length / sae.W_dec[latent].norm(dim=1)
        groups.append((places, Steering(kind, strength, sae=sae, latent=latent)))
    return groups


def kind_of(row: Row) -> Kind | None:
    """None for rows that are not steered."""
    if row.dial in (NO_DIAL, INSTRUCTION):
        return None
    return cast(Kind, REMOVALS[row.dial][0]) if row.part == REMOVING else "add"


def source_of(row: Row) -> str:
    """The dial whose direction or latent a row uses."""
    return REMOVALS[row.dial][1] if row.part == REMOVING else row.dial


def vector(row: Row, prepared: dict[str, Tensor]) -> Float[Tensor, " d_model"]:
    """The unit vector of a row."""
    source = source_of(row)
    name = f"dial.{source}.{row.seed}" if source in OF_A_SEED else f"dial.{source}"
    return prepared[name][row.concept]


def latent_of(row: Row, prepared: dict[str, Tensor]) -> Tensor:
    """The latent of a row that is clamped."""
    return prepared[f"latent.{source_of(row)}.{row.seed}"][row.concept]


def as_columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Columns of a table."""
    return {name: [getattr(row, name) for row in rows] for name in Row._fields}
