"""Step: the direction of one chat model that refuses by its own training, found and tested by the rules of `study`.

The requests are the paper's (`paper_requests`), a slice of each split for every seed. There is no model before
fine-tuning and no sham model to compare with. Numbers as in `study`. No answer is written or printed.
"""

from pathlib import Path

from common.core.errors import UserError
from common.core.step import Files, RunInfo, run_step
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import layers
from replications.refusal_direction.directions import subject_of
from replications.refusal_direction.folders import load
from replications.refusal_direction.paper_requests import draw_requests
from replications.refusal_direction.settings import StudyReleased
from replications.refusal_direction.study import chosen_and_answers, side_effects, store


class StudyFiles(Files):
    model: Path
    """`manifest.json` of the model"""
    requests: Path
    """`manifest.json` of the paper's requests"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    corpora: list[Path]
    """`manifest.json` of each corpus whose loss is measured"""
    request_files: list[Path]
    numbers: Path
    directions: Path
    tables: list[Path]


def study_released(files: StudyFiles, settings: StudyReleased, run: RunInfo) -> None:
    """Writes the directions, tables and numbers of one seed's requests."""
    tokenizer, sizes = load_tokenizer(files.model.parent), settings.released
    prompts = draw_requests(files.requests.parent, settings.seed, sizes)
    effects = settings.effects.model_copy(update={"new_tokens": sizes.new_tokens})
    settings = settings.model_copy(update={"effects": effects})
    model = load(files.model, fast_dtype(), run.device)
    if any(hasattr(block, "post_feedforward_layernorm") for block in layers(model)):
        raise UserError(
            f"{files.model.parent.name} normalises what its sublayers write (Gemma 2 and later), and ablation at their "
            "outputs would leave some of the direction; take it out of released.yaml"
        )
    subject = subject_of(model, None, tokenizer, prompts, settings.search.minimum_left)
    found, tables = chosen_and_answers(subject, settings)
    if settings.losses:
        tables["losses"] = side_effects(subject, found, files.corpora, settings.losses, settings.seed)
    store(files.numbers, files.directions, subject, found, tables)


if __name__ == "__main__":
    run_step(study_released)
