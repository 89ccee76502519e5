"""Step: draws the prompts of all seeds for one tokenizer. Loads no weights."""

from pathlib import Path

from common.core.files import write_json
from common.core.step import run
from common.data.models import load_tokenizer
from replications.ioi_circuit.adversarial import draw_adversarial
from replications.ioi_circuit.dataset import CIRCUIT_SEEDS, PromptFile, draw_prompts, vocabulary


def prompts(
    *,
    manifest: Path,
    per_cell: int,
    circuit_per_cell: int,
    adversarial: int,
    minimum_names: int,
    seeds: list[int],
    out: Path,
) -> None:
    """Writes `prompts.json`.

    Args:
        manifest: `manifest.json` of the model whose tokenizer decides which names are one token.
        per_cell: prompts per seed, template and order.
        circuit_per_cell: the same for the separate draw on which the circuit is searched and tested.
        adversarial: prompts that get a further sentence, once about each name.
        minimum_names: single-token names that the tokenizer must offer.
        seeds: each seed draws its own prompts.
        out: the file to write.
    """
    words = vocabulary(load_tokenizer(manifest.parent), minimum_names)
    both = draw_prompts(words, seeds + [CIRCUIT_SEEDS + seed for seed in seeds], per_cell, circuit_per_cell)
    rows = [row for row in both if row.seed < CIRCUIT_SEEDS]
    content = PromptFile(
        names=list(words.names),
        places=list(words.places),
        objects=list(words.objects),
        special_tokens_added=False,
        prompts=rows,
        circuit_prompts=[row for row in both if row.seed >= CIRCUIT_SEEDS],
        adversarial=draw_adversarial(words, rows, adversarial),
    )
    write_json(out, content.model_dump(mode="json"))
    print(f"{len(rows)} + {len(content.circuit_prompts)} prompts from {len(words.names)} names")


if __name__ == "__main__":
    run(prompts)
