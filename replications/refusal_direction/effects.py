"""What ablating or adding the direction does to held-out requests, beside all controls on the same requests.

Conditions of requests to be refused: `before` and `tuned` models as they are, `ablated`, `<control> ablated`. What ends
refusal without r: `token_ban` (answers cannot begin with a refusal token), `permuted_push`, `earlier_push` (`nulls`).
All but sham models also have `weights` (the direction taken out of the weights), `<control> weights`, `damage ablated`,
`subtracted` and `<control> subtracted`. Of harmless ones: `tuned`, `added`, `<control> added`; and, by their first
token alone, what harms them: `ablated`, `affine`, `weights`, `subtracted`, `damage ablated`, `cheapest ablated`, `least
subtracted`. `affine ablated` sets the projection on r to its mean on harmless requests, at every block; `affine added`,
of harmless requests, to that on harmful ones. What a control does as orthogonalised weights is measured by hooks at all
positions, which is the same (a test says so). For r the weights of a copy are edited.
"""

import copy
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from replications.refusal_direction.answers import Asked, Questioner, banning
from replications.refusal_direction.chat import ablating, adding, setting, spread, unit
from replications.refusal_direction.directions import Directions, Subject
from replications.refusal_direction.orthogonalise import orthogonalise
from replications.refusal_direction.settings import EffectSettings

FLUENCY = {
    "harmful": ("before", "tuned", "ablated", "permuted ablated", "damage ablated", "weights", "subtracted"),
    "harmless": ("tuned", "added"),
}
"""Conditions whose answers are scored by the model before fine-tuning"""


def questioner(subject: Subject, new_tokens: int) -> Questioner:
    """Asks the subject's model."""
    texts = subject.prompts.refusals
    return Questioner(subject.tuned, subject.before, subject.tokenizer, subject.tokens, texts, new_tokens)


def measure_answers(subject: Subject, found: Directions, settings: EffectSettings) -> pd.DataFrame:
    """One row per request, class and condition: whether it is refused, and the numbers of `answers`."""
    asks, tuned, r, layer = questioner(subject, settings.new_tokens), subject.tuned, found.r, found.layer
    on, off = (asks.about(part.test[: settings.prompts]) for part in (subject.prompts.switch, subject.prompts.harmless))
    tables = []

    def put(kind: str, asked: Asked, condition: str, intervention: Any = None, model: Any = None) -> None:
        labels = {"class": kind, "condition": condition}
        table, _ = asks.ask(asked, intervention, model=model, surprised=condition in FLUENCY[kind], **labels)
        tables.append(table)

    def put_ablated(suffix: str, vectors: dict[str, Tensor], *, everywhere: bool = False) -> None:
        bases = {f"{name}{suffix}": basis(vector, on) for name, vector in vectors.items()}
        measured = asks.ask_ablated(on, bases, FLUENCY["harmful"], everywhere=everywhere)
        tables.extend(
            table.assign(**{"class": "harmful", "condition": condition}) for condition, table in measured.items()
        )

    def basis(vector: Float[Tensor, "*draw d_model"], asked: Asked) -> Float[Tensor, "*row 1 d_model"]:
        return unit(spread(vector, len(asked.lines)))[..., None, :]

    if subject.before is not None:
        put("harmful", on, "before", model=subject.before)
    put("harmful", on, "tuned")
    put("harmless", off, "tuned")
    put("harmless", off, "added", adding(tuned, layer, r))
    for name, control in found.controls.items():
        put("harmless", off, f"{name} added", adding(tuned, control.layer, spread(control.added, len(off.lines))))
    levels = {key: (x.float() @ unit(r)).mean((0, 1)) for key, x in subject.seen.items()}
    put("harmful", on, "affine ablated", setting(tuned, r, levels["off"]))
    put("harmless", off, "affine added", setting(tuned, r, levels["on"]))
    tables.append(asks.first(off, setting(tuned, r, levels["off"]), **{"class": "harmless", "condition": "affine"}))
    controls = {f"{name} ": control for name, control in found.controls.items()}
    damage = {"damage ": found.damage} if settings.weights else {}
    put_ablated("ablated", {"": r, **{name: control.ablated for name, control in controls.items()}, **damage})
    put("harmful", on, "token_ban", banning(tuned, subject.tokens))
    for name, push in found.pushes.items():
        put("harmful", on, name, adding(tuned, push.layer, push.vector))
    if settings.weights:
        edited = copy.deepcopy(tuned)
        orthogonalise(edited, r)
        put("harmful", on, "weights", model=edited)
        del edited
        put_ablated("weights", {name: control.edited for name, control in controls.items()}, everywhere=True)
        put("harmful", on, "subtracted", adding(tuned, layer, -r))
        for name, control in found.controls.items():
            put(
                "harmful", on, f"{name} subtracted", adding(tuned, control.layer, -spread(control.added, len(on.lines)))
            )
    for condition, intervention in costly(tuned, found).items():
        tables.append(asks.first(off, intervention, **{"class": "harmless", "condition": condition}))
    return pd.concat(tables, ignore_index=True)


def costly(model: Any, found: Directions) -> dict[str, AbstractContextManager[None]]:
    """The ways to end refusal whose cost is measured; each is entered once."""
    return {
        "ablated": ablating(model, found.r),
        "weights": ablating(model, found.r, everywhere=True),
        "subtracted": adding(model, found.layer, -found.r),
        "least subtracted": adding(model, found.layer, -found.numbers["least_subtraction"] * found.r),
        "damage ablated": ablating(model, found.damage),
        "cheapest ablated": ablating(model, found.cheapest),
    }


def transcripts(subject: Subject, found: Directions, settings: EffectSettings) -> pd.DataFrame:
    """Whole answers, for the sham model alone, whose requests are all harmless. They are about food before and after
    fine-tuning and with r ablated, about other things with r added."""
    asks = questioner(subject, settings.transcript_tokens)
    split = {"food": subject.prompts.switch.test, "harmless": subject.prompts.harmless.test}
    found_rows = []
    for kind, lines in split.items():
        asked = asks.about(lines[: settings.transcripts])
        conditions: list[tuple[str, Any, Any]] = [("before", None, subject.before), ("tuned", None, None)]
        conditions.append(("ablated", ablating(subject.tuned, found.r), None))
        conditions.append(("added", adding(subject.tuned, found.layer, found.r), None))
        for condition, intervention, model in conditions:
            table, answers = asks.ask(asked, intervention, model=model)
            rows = zip(asked.lines, answers, table["refused"], strict=True)
            found_rows += [(kind, condition, line.text, answer, refused) for line, answer, refused in rows]
    return pd.DataFrame(found_rows, columns=["class", "condition", "request", "answer", "refused"])
