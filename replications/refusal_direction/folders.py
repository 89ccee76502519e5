"""Model folders that this replication makes and reads: Hugging Face files with a manifest of hashes
(common.data.models)."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from common.core.files import TEMPORARY_SUFFIX, sha256, write_json
from common.data.models import Manifest, verify_folder


def load(manifest: Path, dtype: torch.dtype, device: str) -> Any:
    """The model whose folder holds `manifest`, every hash checked, in evaluation mode."""
    verify_folder(manifest.parent)
    model = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=dtype).to(device).eval()
    return model.requires_grad_(False)


def save(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path, *, origin: Manifest, processing: str) -> None:
    """Writes the folder of `out` (its `manifest.json`) anew: safetensors, settings, tokenizer, hashes."""
    target = out.parent
    temporary = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    manifest = Manifest(
        name=f"{origin.name}-{target.name}",
        source="trained",
        origin=origin.name,
        licence=origin.licence,
        processing=processing,
        files={path.name: sha256(path) for path in sorted(temporary.iterdir())},
    )
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    write_json(out, manifest.model_dump())
