"""Step: everything that is measured on one refusing model, in one process, since loading takes longer than most of it.

Refusal tokens, directions and controls (`directions`, `search`) -> what they do to requests of held-out topics
(`effects`, `refusal_score`) -> what else the ablation changes (`surgical`). Candidates are screened and requests
answered in bfloat16 where the processor computes in it; losses, KL on held-out requests and weights are float32. Of a
sham model only scores and answers are measured; nothing else of it is compared.

No answer to a request is written or printed: only classifications, scores and the probabilities of first tokens.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic, write_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.directions import Directions, Subject, find, subject_of
from replications.refusal_direction.effects import measure_answers, measure_doses, measure_projections
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.refusal_score import measure_score
from replications.refusal_direction.settings import SideEffectSettings, Study, StudyReleased
from replications.refusal_direction.surgical import measure_surgical, texts, weight_change

Tables = dict[str, pd.DataFrame]


class StudyFiles(Files):
    before: Path
    """`manifest.json` of the model before fine-tuning"""
    tuned: Path
    """`manifest.json` of the tuned model"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    python_docs: Path
    """`manifest.json` of the corpus"""
    self_chat: Path
    """`manifest.json` of the corpus"""
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
    found, tables, first = chosen_and_answers(subject, settings, suffixes=settings.curves is not None)
    if settings.switch == "harmful":
        text_prompts = settings.curves.text_prompts if settings.curves else 0
        if settings.curves:
            tables["doses"] = measure_doses(subject, found, settings.curves)
            tables["projections"] = measure_projections(subject, found, settings.effects.prompts)
        tables["score"] = measure_score(subject, first["harmful"], first["harmless"], text_prompts)
        if settings.side_effects:
            del untouched
            subject = subject._replace(tuned=refusing.float(), before=None)  # tuned weights are stored in bfloat16
            subject = subject._replace(before=load(files.before, torch.float32, run.device))
            corpora = {"python-docs": files.python_docs, "self-chat": files.self_chat}
            tables["surgical"] = side_effects(subject, found, corpora, settings.side_effects, settings.seed)
            tables["weights"] = weight_change(subject.tuned, subject.before, found)
    store(files.numbers, files.directions, found, tables)


def chosen_and_answers(
    subject: Subject, settings: Study | StudyReleased, *, suffixes: bool
) -> tuple[Directions, Tables, dict[str, Float[Tensor, "line d_vocab"]]]:
    """The direction, the scores of all candidates, and what the direction and its controls do to requests; and the
    logits of the first tokens without any of it, class by class."""
    found = find(subject, settings.search, settings.effects.random_draws, settings.seed)
    print(f"chosen: template token {found.numbers['position']}, layer {found.layer}", flush=True)
    answers, first = measure_answers(subject, found, settings.effects, suffixes=suffixes)
    return found, {"scores": found.scores, "answers": answers}, first


def side_effects(
    subject: Subject, found: Directions, manifests: dict[str, Path], settings: SideEffectSettings, seed: int
) -> pd.DataFrame:
    """What else the ablation changes, on models in float32."""
    harmful, harmless = (part.test[: settings.prompts] for part in (subject.prompts.switch, subject.prompts.harmless))
    corpora = texts(manifests, subject.tokenizer, settings.texts, settings.text_tokens, judging_split([seed]))
    return measure_surgical(subject, corpora, harmful, harmless, found)


def store(numbers: Path, directions: Path, found: Directions, tables: Tables) -> None:
    """Writes tables and directions, then `numbers`."""
    for name, table in tables.items():
        write_table(numbers.with_name(f"{name}.csv"), table)
    stored = {"r": found.r, "differences": found.differences, **found.controls}
    with atomic(directions) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in stored.items()}, temporary)
    write_json(numbers, found.numbers)


if __name__ == "__main__":
    run_step(study)
