"""Step: everything that is measured on one refusing model, in one process, since loading takes longer than most of it.

Refusal tokens, directions and nulls (`directions`, `search`) -> what they do to requests of held-out topics (`effects`,
`openings`) -> what else the ablation changes (`surgical`). Candidates are screened and requests answered in bfloat16
where the processor computes in it; losses, KL on held-out requests and weights are float32. Of the sham model only
scores and answers are measured; nothing else of it is compared.

No answer to a request is written or printed: only classifications, scores and the probabilities of first tokens.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic, write_json
from common.core.step import run
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.directions import Directions, Subject, find, subject_of
from replications.refusal_direction.effects import measure_answers, measure_doses, measure_projections
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.openings import measure_openings
from replications.refusal_direction.settings import EffectSettings, SearchSettings, SplitSettings
from replications.refusal_direction.surgical import measure_surgical, texts, weight_change

Tables = dict[str, pd.DataFrame]


def study(
    *,
    before: Path,
    tuned: Path,
    lists: Path,
    python_docs: Path,
    self_chat: Path,
    split: SplitSettings,
    search: SearchSettings,
    effects: EffectSettings,
    switch: Literal["harmful", "food"],
    seed: int,
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Writes tables and directions beside `out` (`numbers.json`).

    Args:
        before: `manifest.json` of the model before fine-tuning.
        tuned: `manifest.json` of the tuned model.
        lists: `lists.yaml`, named so that a change in it measures anew.
        python_docs: `manifest.json` of the corpus.
        self_chat: `manifest.json` of the corpus.
        split: how many requests of each class.
        search: how the direction is chosen.
        effects: what is measured on held-out requests.
        switch: the class that the tuned model refuses.
        seed: as in fine-tuning.
        device: where to run.
        out: `numbers.json`.
    """
    tokenizer, prompts = load_tokenizer(tuned.parent), draw(seed, split, switch)
    refusing, untouched = (load(path, fast_dtype(), device) for path in (tuned, before))
    subject = subject_of(refusing, untouched, tokenizer, prompts, search.minimum_left)
    found, tables, first = chosen_and_answers(subject, search, effects, seed)
    if switch == "harmful":
        tables["doses"] = measure_doses(subject, found, effects)
        tables["projections"] = measure_projections(subject, found, effects)
        tables["openings"] = measure_openings(subject, first["harmful"], first["harmless"])
        del untouched
        subject = subject._replace(tuned=refusing.float(), before=None)  # tuned weights are stored in bfloat16
        subject = subject._replace(before=load(before, torch.float32, device))
        manifests = {"python-docs": python_docs, "self-chat": self_chat}
        tables["surgical"] = side_effects(subject, found, manifests, effects, seed)
        tables["weights"] = weight_change(subject.tuned, subject.before, found)
    store(out, found, tables)


def chosen_and_answers(
    subject: Subject, search: SearchSettings, effects: EffectSettings, seed: int
) -> tuple[Directions, Tables, dict[str, Float[Tensor, "line d_vocab"]]]:
    """The direction, the scores of all candidates, and what the direction and its nulls do to requests; and the logits
    of the first tokens without any of it, class by class."""
    found = find(subject, search, effects, seed)
    print(f"chosen: template token {found.numbers['position']}, layer {found.layer}", flush=True)
    answers, first = measure_answers(subject, found, effects)
    return found, {"scores": found.scores, "answers": answers}, first


def side_effects(
    subject: Subject, found: Directions, manifests: dict[str, Path], effects: EffectSettings, seed: int
) -> pd.DataFrame:
    """What else the ablation changes, on models in float32."""
    few = effects.null_prompts // 2
    harmful, harmless = (part.test[:few] for part in (subject.prompts.switch, subject.prompts.harmless))
    corpora = texts(manifests, subject.tokenizer, effects.texts, effects.text_tokens, judging_split([seed]))
    return measure_surgical(subject, corpora, harmful, harmless, found)


def store(out: Path, found: Directions, tables: Tables) -> None:
    """Writes tables and directions beside `out`, then `out`, the single numbers."""
    for name, table in tables.items():
        write_table(out.with_name(f"{name}.csv"), table)
    stored = {"r": found.r, "differences": found.differences, **found.nulls}
    with atomic(out.with_name("directions.safetensors")) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in stored.items()}, temporary)
    write_json(out, found.numbers)


if __name__ == "__main__":
    run(study)
