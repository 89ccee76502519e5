"""Step: draws the prompts of all seeds for one tokenizer. Loads no weights.

Adversarial prompts (Wang et al. 2022, appendix I and figure 8) get a neutral sentence about one of the two names:
"Then, Mary and John walked to the store. *Mary had a good day.* John gave a drink to". Now both names occur twice, so
heads that tell which name came twice are misled. The same sentence about S, which was there twice already, is the
control. The sentence stands between the two sentences of a prompt, so templates of one sentence have no such version.
Five forms in our own wording, dealt in turn.
"""

from pathlib import Path
from typing import Literal

from common.core.errors import UserError
from common.core.files import write_json
from common.core.step import Files, RunInfo, run_step
from common.data.models import load_tokenizer
from replications.ioi_circuit.dataset import (
    CIRCUIT_SEEDS,
    Adversarial,
    Prompt,
    PromptFile,
    Vocabulary,
    draw_prompts,
    vocabulary,
)
from replications.ioi_circuit.settings import Prompts
from replications.ioi_circuit.templates import EXTRA_SENTENCES

EXTRAS: tuple[Literal["s", "io"], ...] = ("s", "io")


class PromptsFiles(Files):
    manifest: Path
    """of the model whose tokenizer decides which names are one token"""
    prompts: Path


def prompts(files: PromptsFiles, settings: Prompts, run: RunInfo) -> None:
    """Writes `prompts.json`."""
    words = vocabulary(load_tokenizer(files.manifest.parent), settings.minimum_names)
    seeds = run.seeds + [CIRCUIT_SEEDS + seed for seed in run.seeds]
    both = draw_prompts(words, seeds, settings.per_cell, settings.circuit_per_cell)
    rows = [row for row in both if row.seed < CIRCUIT_SEEDS]
    content = PromptFile(
        names=list(words.names),
        places=list(words.places),
        objects=list(words.objects),
        special_tokens_added=False,
        prompts=rows,
        circuit_prompts=[row for row in both if row.seed >= CIRCUIT_SEEDS],
        adversarial=draw_adversarial(words, rows, settings.adversarial),
    )
    write_json(files.prompts, content.model_dump(mode="json"))
    print(f"{len(rows)} + {len(content.circuit_prompts)} prompts from {len(words.names)} names")


def draw_adversarial(words: Vocabulary, prompts: list[Prompt], count: int) -> list[Adversarial]:
    """Both versions of `count` prompts, dealt over seeds, templates and orders; fewer if there are not so many.

    Raises:
        UserError: the tokenizer does not write a name as one token in the new sentence.
    """
    fitting = [(index, row) for index, row in enumerate(prompts) if f". {row.s} " in row.versions["original"].text]
    chosen = [fitting[turn * len(fitting) // count] for turn in range(count)] if count < len(fitting) else fitting
    made = []
    for turn, (index, row) in enumerate(chosen):
        first, second = row.versions["original"].text.split(f". {row.s} ")
        for extra in EXTRAS:
            name = row.s if extra == "s" else row.io
            sentence = EXTRA_SENTENCES[turn % len(EXTRA_SENTENCES)].format(name=name)
            text = f"{first}. {sentence} {row.s} {second}"
            tokens = words.encode(text)
            if (tokens.count(row.s_id), tokens.count(row.io_id)) != ((3, 1) if extra == "s" else (2, 2)):
                raise UserError(
                    f"this tokenizer does not write each name of '{text}' as one token; take that name out of "
                    "replications/ioi_circuit/templates.py"
                )
            made.append(Adversarial(index=index, extra=extra, text=text, tokens=tokens))
    return made


if __name__ == "__main__":
    run_step(prompts)
