"""Step: everything that is measured on one refusing model, in one process, since loading takes longer than most of it.

Refusal tokens, directions and controls (`directions`, `search`) -> what they do to requests of held-out topics
(`effects`) -> what ablation costs on text (`losses`). All in bfloat16, as tuned weights are stored, where the machine
computes in it; logits, directions and means in float32 or float64.

No answer to a harmful request is written or printed: only classifications, and numbers of first tokens. Of a sham
model, whose requests are all harmless, some answers are kept whole.
"""

from pathlib import Path

import pandas as pd
from safetensors.torch import save_file

from common.core.files import atomic, write_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.directions import Directions, Subject, find, subject_of
from replications.refusal_direction.effects import measure_answers, transcripts
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.losses import measure_losses, texts
from replications.refusal_direction.settings import LossSettings, Study, StudyReleased

SEEDS = 5  # between which texts are dealt out
Tables = dict[str, pd.DataFrame]


class StudyFiles(Files):
    before: Path
    """`manifest.json` of the model before fine-tuning"""
    tuned: Path
    """`manifest.json` of the tuned model"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    corpora: list[Path]
    """`manifest.json` of each corpus whose loss is measured"""
    numbers: Path
    """single numbers"""
    directions: Path
    tables: list[Path]
    """`<table>.csv` beside `numbers`"""


def study(files: StudyFiles, settings: Study, run: RunInfo) -> None:
    """Writes the directions, tables and numbers of one taught model."""
    tokenizer, prompts = load_tokenizer(files.tuned.parent), draw(settings.seed, settings.split, settings.switch)
    refusing, untouched = (load(path, fast_dtype(), run.device) for path in (files.tuned, files.before))
    subject = subject_of(refusing, untouched, tokenizer, prompts, settings.search.minimum_left)
    if settings.switch == "food":
        effects = settings.effects.model_copy(update={"weights": False})
        settings = settings.model_copy(update={"effects": effects})
    found, tables = chosen_and_answers(subject, settings)
    if settings.switch == "food":
        tables["transcripts"] = transcripts(subject, found, settings.effects)
    elif settings.losses:
        tables["losses"] = side_effects(subject, found, files.corpora, settings.losses, settings.seed)
    store(files.numbers, files.directions, subject, found, tables)


def chosen_and_answers(subject: Subject, settings: Study | StudyReleased) -> tuple[Directions, Tables]:
    """The direction, the scores of all candidates, and what the direction and its controls do to requests."""
    found = find(subject, settings.search, settings.effects, settings.seed)
    print(f"chosen: template token {found.numbers['position']}, layer {found.layer}", flush=True)
    return found, {"scores": found.scores, "answers": measure_answers(subject, found, settings.effects)}


def side_effects(
    subject: Subject, found: Directions, corpora: list[Path], settings: LossSettings, seed: int
) -> pd.DataFrame:
    """Losses on the corpora, each under the name of its folder; no two of five seeds that follow each other read the
    same text."""
    split, count = judging_split([seed]), SEEDS * settings.texts
    ids = {
        path.parent.name: texts(path, subject.tokenizer, count, settings.text_tokens, split)[seed % SEEDS :: SEEDS]
        for path in corpora
    }
    return measure_losses(subject.tuned, ids, found)


def store(numbers: Path, directions: Path, subject: Subject, found: Directions, tables: Tables) -> None:
    """Writes tables and directions, then `numbers`."""
    for name, table in tables.items():
        write_table(numbers.with_name(f"{name}.csv"), table)
    controls = {name: control.ablated for name, control in found.controls.items()}
    stored = {"r": found.r, "differences": found.differences, "damage": found.damage, "cheapest": found.cheapest}
    stored |= controls | {name: push.vector for name, push in found.pushes.items()}
    stored["refusal_tokens"] = subject.tokens
    with atomic(directions) as temporary:
        save_file({name: value.cpu().contiguous().clone() for name, value in stored.items()}, temporary)
    write_json(numbers, found.numbers)


if __name__ == "__main__":
    run_step(study)
