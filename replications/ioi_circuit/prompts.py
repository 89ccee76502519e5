"""Step: draws the prompts of all seeds for one tokenizer. Loads no weights."""

from pathlib import Path

from common.core.files import write_json
from common.core.step import Files, RunInfo, run_step
from common.data.models import load_tokenizer
from replications.ioi_circuit.dataset import CIRCUIT_SEEDS, PromptFile, draw_prompts, names_for, vocabulary
from replications.ioi_circuit.settings import Prompts


class PromptsFiles(Files):
    manifest: Path
    """of the model whose tokenizer decides which names are one token"""
    prompts: Path


def prompts(files: PromptsFiles, settings: Prompts, run: RunInfo) -> None:
    """Writes `prompts.json`."""
    words = vocabulary(load_tokenizer(files.manifest.parent), settings.minimum_names, names_for(run.seeds))
    seeds = run.seeds + [CIRCUIT_SEEDS + seed for seed in run.seeds]
    both = draw_prompts(words, seeds, settings.per_cell, settings.circuit_per_cell, settings.templates)
    content = PromptFile(
        names=list(words.names),
        places=list(words.places),
        objects=list(words.objects),
        special_tokens_added=False,
        prompts=[row for row in both if row.seed < CIRCUIT_SEEDS],
        circuit_prompts=[row for row in both if row.seed >= CIRCUIT_SEEDS],
    )
    write_json(files.prompts, content.model_dump(mode="json"))
    print(f"{len(content.prompts)} + {len(content.circuit_prompts)} prompts from {len(words.names)} names")


if __name__ == "__main__":
    run_step(prompts)
