"""Step: the language model of scale `smoke`, made of some blocks of the embedded one.

A smoke run tries every step and its numbers mean nothing, but finders of circuits stop where there is no circuit. The
blocks below are what was left after taking away, one by one, the block whose loss harms indirect object identification
least, as far as the rules of `ioi_circuit` still name a head: of these fifteen none can go. Embeddings, final norm,
unembedding and tokenizer are unchanged.
"""

import re
import shutil
from pathlib import Path

from common.core.files import atomic, read_json, write_json
from common.core.step import Files, run_step
from common.data.models import verify_folder

BLOCKS = (0, 1, 2, 8, 9, 11, 14, 15, 16, 17, 18, 23, 24, 28, 29)
BLOCK = re.compile(r"(.*\blayers\.)(\d+)(\..*)")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class SmokeModelFiles(Files):
    manifest: Path
    config: Path
    weights: Path


def smoke_model(files: SmokeModelFiles) -> None:
    """Writes `config`, `weights` and tokenizer, from the model of `manifest`. UserError if that is damaged."""
    manifest, config, weights = files.manifest, files.config, files.weights
    from safetensors.torch import load_file, save_file

    verify_folder(manifest.parent)
    kept = {}
    for name, value in load_file(manifest.parent / "model.safetensors").items():
        place = BLOCK.fullmatch(name)
        if place is None:
            kept[name] = value
        elif int(place[2]) in BLOCKS:
            kept[f"{place[1]}{BLOCKS.index(int(place[2]))}{place[3]}"] = value
    config.parent.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        if (manifest.parent / name).exists():
            shutil.copyfile(manifest.parent / name, config.parent / name)
    with atomic(weights) as temporary:
        save_file(kept, temporary, metadata={"format": "pt"})
    write_json(config, {**read_json(manifest.parent / "config.json"), "num_hidden_layers": len(BLOCKS)})


if __name__ == "__main__":
    run_step(smoke_model)
