"""Step: harvests training activations at two layers, and held-out windows with their whole residual stream.

Training activations go to shards (`common.saes.stream`), one folder per layer. Held-out windows keep every position at
both layers in float32, so that the rest of the forward pass can go on from them. They are in `held_out.safetensors`:
tokens, real, used, document, resid.<layer>. `used` marks positions that an SAE replaces, the kind it was trained on.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step, track
from common.data.corpora import judging_split
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.saes.harvest import (
    OUTLIER,
    Windows,
    batched,
    check_hook,
    harvest,
    kept_tokens,
    run_to_hook,
    windows,
)
from common.saes.stream import write_shards
from replications.sparse_autoencoders.settings import Corpora


class CollectFiles(Files):
    manifest: Path
    """of the language model"""
    docs: Path
    chat: Path
    main: Path
    """manifest of the shards of the studied layer"""
    second: Path | None = None
    """manifest of those of the second layer"""
    held_out: Path


def collect(files: CollectFiles, settings: Corpora, run: RunInfo) -> None:
    """Writes a folder of shards for each layer, and the held-out windows.

    Training activations come from the model in bfloat16 where the machine computes in it, held-out ones in float32.
    """
    tokenizer = load_tokenizer(files.manifest.parent)
    special = sorted(set(tokenizer.all_special_ids))
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in (settings.layer, settings.second_layer) if layer is not None]
    outs = [out for out in (files.main, files.second) if out is not None]
    sources = [files.docs.parent, files.chat.parent]
    budgets = [settings.docs_tokens, settings.chat_tokens]
    bridge = load_model(files.manifest.parent, device=run.device, dtype=fast_dtype())
    for hook in hooks:
        check_hook(bridge, hook)
    chosen = windows(sources, "train", tokenizer, settings.window, budgets)
    found = harvest(bridge, chosen, hooks, special, settings.batch, run.device)
    for hook, out in zip(hooks, outs, strict=True):
        one = found.pop(hook)
        about = {
            "model": files.manifest.parent.name,
            "hook": hook,
            "corpora": [folder.name for folder in sources],
            "dropped": one.dropped,
        }
        write_shards(out.parent, one.x, one.document, one.token_id, about=about)
        print(f"{hook}: {len(one.x)} activations, dropped {one.dropped}")
    del bridge
    each = settings.held_out_tokens // 2
    kept = windows(sources, judging_split(run.seeds), tokenizer, settings.window, [each, each], per_document=2)
    write_held_out(files.held_out, files.manifest, kept, hooks, special, settings.batch, run.device)


def write_held_out(
    out: Path, manifest: Path, chosen: Windows, hooks: list[str], special: list[int], batch: int, device: str
) -> None:
    """All positions of the held-out windows at both hooks, float32."""
    bridge = load_model(manifest.parent, device=device)
    layers = {hook: check_hook(bridge, hook) for hook in hooks}
    parts: dict[str, list[torch.Tensor]] = {hook: [] for hook in hooks}
    with torch.inference_mode():
        for rows in track(list(batched(len(chosen.tokens), batch)), "held-out windows"):
            seen = run_to_hook(bridge, chosen.tokens[rows].to(device), chosen.real[rows].to(device), layers)
            for hook in hooks:
                parts[hook].append(seen[hook].cpu())
    resid = {hook: torch.cat(values) for hook, values in parts.items()}
    masks = kept_tokens(chosen.tokens, chosen.real, special)
    used = chosen.real & ~torch.stack(list(masks.values())).any(0)
    for values in resid.values():
        norm = values.norm(dim=-1)
        used &= norm <= OUTLIER * norm[used].median()
    tensors = {"tokens": chosen.tokens, "real": chosen.real, "used": used, "document": chosen.document}
    tensors |= {f"resid.{layers[hook]}": values.contiguous() for hook, values in resid.items()}
    with atomic(out) as temporary:
        save_file(tensors, temporary)
    print(f"held out: {len(chosen.tokens)} windows, {int(used.sum())} activations used")


if __name__ == "__main__":
    run_step(collect)
