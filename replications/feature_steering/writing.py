"""Which texts are written: every row of the comparison and of the removal, and how rows are read again.

Comparison: neutral prompts are continued under steering vectors. On one half of the prompts two methods are tried at
rising lengths, to choose the fluent one. On the other half all methods are compared at one length, those of `CURVES`
at every dose and at the chosen lengths. Removal: beginnings of documents on a concept are continued under interventions
that push its latent down. All methods, lengths and nulls of a concept, prompt and seed share their random numbers. So
does the text of length 0, which the unsteered model writes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.sae import Sae
from common.saes.steering import Kind, Steering
from replications.feature_steering.concepts import NEUTRAL, draw_prompts
from replications.feature_steering.settings import (
    CHOOSING,
    CHOSEN,
    CURVES,
    INSTRUCTION,
    METHODS,
    NULL_OF,
    OF_A_SEED,
    RANDOM,
    REMOVALS,
    REMOVING,
    SCORING,
    UNSTEERED,
    Fluency,
    Writing,
)

OWN_STREAMS = 10**6  # in the removal, further unsteered texts have random numbers of their own


class Row(NamedTuple):
    """One text to write. `prompt` and `neutral` are places in the list of prompts: what it continues, and what it is
    read after. Rows of one seed and `stream` share their random numbers."""

    seed: int
    part: str
    concept: int
    method: str
    multiplier: float
    prompt: int
    neutral: int
    stream: int


def choosing(concepts: int, seed: int, fluency: Fluency) -> Iterator[Row]:
    """The methods of `CHOSEN` at every length that may be chosen, on half of the prompts beyond them, and at none."""
    for concept in range(concepts):
        for place, prompt in enumerate(draw_prompts(concept, seed, 0, fluency.prompts)):
            stream = prompt * concepts + concept
            yield Row(seed, CHOOSING, concept, UNSTEERED, 0.0, prompt, prompt, stream)
            longer = fluency.beyond if place < (fluency.prompts + 1) // 2 else []
            for method in CHOSEN:
                for length in (*fluency.lengths, *longer):
                    yield Row(seed, CHOOSING, concept, method, length, prompt, prompt, stream)


def scored(writing: Writing, chosen: dict[str, float]) -> list[tuple[str, float]]:
    """Methods and lengths of the scoring prompts: every method at the common length, those of `CURVES` at every dose.

    A method with a chosen length, its null and a random direction also stand at that length (unless it is 0).
    """
    pairs = {(one, writing.equal) for one in METHODS} | {(one, dose) for one in CURVES for dose in writing.doses}
    for method, length in chosen.items():
        pairs |= {(one, length) for one in (method, NULL_OF[method], RANDOM) if length}
    return sorted(pairs)


def scoring(concepts: int, seed: int, writing: Writing, chosen: dict[str, float]) -> Iterator[Row]:
    """The unsteered text, the instruction, and every pair of `scored`.

    Instructed prompts follow the neutral ones in the list of prompts, concept by concept.
    """
    for concept in range(concepts):
        for prompt in draw_prompts(concept, seed, 1, writing.scoring):
            stream = prompt * concepts + concept
            yield Row(seed, SCORING, concept, UNSTEERED, 0.0, prompt, prompt, stream)
            instructed = len(NEUTRAL) * (concept + 1) + prompt
            yield Row(seed, SCORING, concept, INSTRUCTION, 0.0, instructed, prompt, stream)
            for method, length in scored(writing, chosen):
                yield Row(seed, SCORING, concept, method, length, prompt, prompt, stream)


def removed(concepts: int, texts: int, seed: int, seeds: list[int], first: int, strength: float) -> Iterator[Row]:
    """Rows of one seed: its share of each concept's texts, which begin at place `first` of the list of prompts."""
    own = range(seeds.index(seed), texts, len(seeds))
    for concept in range(concepts):
        for text in own:
            prompt = first + concept * texts + text
            yield Row(seed, REMOVING, concept, UNSTEERED, 0.0, prompt, prompt, prompt)
            yield Row(seed, REMOVING, concept, UNSTEERED, 0.0, prompt, prompt, OWN_STREAMS + prompt)
            for arm in REMOVALS:
                yield Row(seed, REMOVING, concept, arm, -strength, prompt, prompt, prompt)


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
    if row.method in (UNSTEERED, INSTRUCTION):
        return None
    return cast(Kind, REMOVALS[row.method][0]) if row.part == REMOVING else "add"


def source_of(row: Row) -> str:
    """The method whose direction or latent a row uses."""
    return REMOVALS[row.method][1] if row.part == REMOVING else row.method


def vector(row: Row, prepared: dict[str, Tensor]) -> Float[Tensor, " d_model"]:
    """The unit vector of a row."""
    source = source_of(row)
    name = f"vector.{source}.{row.seed}" if source in OF_A_SEED else f"vector.{source}"
    return prepared[name][row.concept]


def latent_of(row: Row, prepared: dict[str, Tensor]) -> Tensor:
    """The latent of a row that is clamped."""
    return prepared[f"latent.{source_of(row)}.{row.seed}"][row.concept]


def as_columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Columns of a table."""
    return {name: [getattr(row, name) for row in rows] for name in Row._fields}
