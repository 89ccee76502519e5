"""Step: draws the prompts of all seeds for one tokenizer. Loads no weights."""

from pathlib import Path

from common.cli import run
from common.files import write_json
from common.models import load_tokenizer
from replications.ioi_circuit.dataset import PromptFile, draw_prompts, vocabulary


def prompts(*, manifest: Path, per_cell: int, minimum_names: int, seeds: list[int], out: Path) -> None:
    """Writes `prompts.json`.

    Args:
        manifest: `manifest.json` of the model whose tokenizer decides which names are one token.
        per_cell: prompts per seed, template and order.
        minimum_names: single-token names that the tokenizer must offer.
        seeds: each seed draws its own prompts.
        out: the file to write.
    """
    words = vocabulary(load_tokenizer(manifest.parent), minimum_names)
    content = PromptFile(
        names=list(words.names),
        places=list(words.places),
        objects=list(words.objects),
        special_tokens_added=False,
        prompts=draw_prompts(words, seeds, per_cell),
    )
    write_json(out, content.model_dump(mode="json"))
    print(f"{len(content.prompts)} prompts from {len(words.names)} names")


if __name__ == "__main__":
    run(prompts)
