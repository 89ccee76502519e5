"""Step: the direction of one chat model that refuses by its own training, found and tested by the rules of `study`.

The requests are the paper's (`paper_requests`), a slice of each split for every seed. There is no model before
fine-tuning and no sham model to compare with. Loss and KL are measured in float32, the rest in
bfloat16 where the processor or GPU computes in it. No answer is written or printed.
"""

from pathlib import Path
from typing import Literal

from common.core.errors import UserError
from common.core.step import run
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import layers
from replications.refusal_direction.directions import subject_of
from replications.refusal_direction.folders import load
from replications.refusal_direction.openings import measure_openings
from replications.refusal_direction.paper_requests import draw_requests
from replications.refusal_direction.settings import EffectSettings, SearchSettings
from replications.refusal_direction.sizes import ReleasedSizes
from replications.refusal_direction.study import chosen_and_answers, side_effects, store


def study_released(
    *,
    manifest: Path,
    requests: Path,
    lists: Path,
    python_docs: Path,
    self_chat: Path,
    sizes: ReleasedSizes,
    search: SearchSettings,
    effects: EffectSettings,
    seed: int,
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Writes tables and directions beside `out` (`numbers.json`).

    Args:
        manifest: `manifest.json` of the model.
        requests: `manifest.json` of the paper's requests.
        lists: `lists.yaml`, named so that a change in it measures anew.
        python_docs: `manifest.json` of the corpus.
        self_chat: `manifest.json` of the corpus.
        sizes: how many requests of each class.
        search: how the direction is chosen.
        effects: what is measured on held-out requests; `new_tokens` is that of `sizes`.
        seed: which requests.
        device: where to run.
        out: `numbers.json`.
    """
    tokenizer, prompts = load_tokenizer(manifest.parent), draw_requests(requests.parent, seed, sizes)
    effects = effects.model_copy(update={"new_tokens": sizes.new_tokens})
    model = load(manifest, fast_dtype(), device)
    if any(hasattr(block, "post_feedforward_layernorm") for block in layers(model)):
        raise UserError(
            f"{manifest.parent.name} normalises what its sublayers write (Gemma 2 and later), and ablation at their "
            "outputs would leave some of the direction; take it out of released.yaml"
        )
    subject = subject_of(model, None, tokenizer, prompts, search.minimum_left)
    found, tables, first = chosen_and_answers(subject, search, effects, seed)
    tables["openings"] = measure_openings(subject, first["harmful"], first["harmless"])
    subject = subject._replace(tuned=model.float())
    manifests = {"python-docs": python_docs, "self-chat": self_chat}
    tables["surgical"] = side_effects(subject, found, manifests, effects, seed)
    store(out, found, tables)


if __name__ == "__main__":
    run(study_released)
