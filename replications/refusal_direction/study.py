"""Step: everything that is measured on one tuned model, in one process, because loading takes longer than most of it.

Refusal tokens, directions and nulls (`directions`, `search`) -> what they do to requests of held-out topics (`effects`,
`openings`) -> what else the ablation changes (`surgical`). Candidates are screened and requests answered in bfloat16
where the processor computes in it; losses, KL on held-out requests and weights are float32.

No answer to a request is written or printed: only classifications, scores and the probabilities of first tokens.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from safetensors.torch import save_file

from common.cli import run
from common.corpora import judging_split
from common.files import atomic, write_json
from common.models import fast_dtype, load_tokenizer
from common.tables import write_table
from replications.refusal_direction.chat import chat_batch, last_logits
from replications.refusal_direction.directions import Subject, find, refusal_tokens
from replications.refusal_direction.effects import measure_answers, measure_doses, measure_projections
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.openings import measure_openings
from replications.refusal_direction.settings import EffectSettings, SearchSettings, SplitSettings
from replications.refusal_direction.surgical import measure_surgical, texts, weight_change


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
    fast, fast_before = load(tuned, fast_dtype(), device), load(before, fast_dtype(), device)
    on, off = (
        last_logits(fast, chat_batch(tokenizer, [line.text for line in lines], device))
        for lines in (prompts.switch.estimate, prompts.harmless.estimate)
    )
    tokens = refusal_tokens(on, off, needed=search.minimum_left > 0)
    subject = Subject(fast, fast_before, tokenizer, prompts, tokens)
    found = find(subject, search, effects, seed)
    print(f"chosen: template token {found.numbers['position']}, layer {found.layer}", flush=True)
    tables: dict[str, pd.DataFrame] = {
        "scores": found.scores,
        "answers": measure_answers(subject, found, effects),
        "doses": measure_doses(subject, found, effects),
        "projections": measure_projections(subject, found, effects),
        "openings": measure_openings(subject, effects.null_prompts),
    }
    del subject, fast_before
    few = effects.null_prompts // 2
    harmful, harmless = (
        chat_batch(tokenizer, [line.text for line in part.test[:few]], device)
        for part in (prompts.switch, prompts.harmless)
    )
    full, full_before = fast.float(), load(before, torch.float32, device)  # tuned weights are stored in bfloat16
    manifests = {"python-docs": python_docs, "self-chat": self_chat}
    corpora = texts(manifests, tokenizer, effects.texts, effects.text_tokens, judging_split([seed]))
    tables["surgical"] = measure_surgical(full, full_before, tokenizer, corpora, harmful, harmless, found)
    tables["weights"] = weight_change(full, full_before, found)
    for name, table in tables.items():
        write_table(out.with_name(f"{name}.csv"), table)
    stored = {"r": found.r, "differences": found.differences, **found.nulls}
    with atomic(out.with_name("directions.safetensors")) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in stored.items()}, temporary)
    write_json(out, found.numbers)


if __name__ == "__main__":
    run(study)
