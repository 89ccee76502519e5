"""Step: runs the model once over every version of every prompt and keeps what the measurements need.

Kept at END only: the accumulated residual stream before each block and after the last, the outputs of all heads before
W_O, and the answers. `activations.safetensors` holds, for a version v:

    logits.v   [prompt, two]                      logits of IO and S of the *original* prompt above the vocabulary mean
    probs.v    [prompt, two]                      their probabilities
    first.v    [prompt]                           token id of the most likely next token
    resid.v    [prompt, layer + 1, d_model]       original and abc
    z.v        [prompt, layer, head, d_head]      original, abc and nouns_redrawn
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from common.cli import run, track
from common.files import atomic
from common.models import load_model
from replications.ioi_circuit.dataset import VERSIONS, Prompt, Version, read_prompts
from replications.ioi_circuit.residual import check_architecture

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

RESID_VERSIONS = ("original", "abc")
Z_VERSIONS = ("original", "abc", "nouns_redrawn")


def collect(
    *,
    prompts: Path,
    manifest: Path,
    batch_size: int,
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Writes `activations.safetensors`.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        batch_size: prompts in one forward pass.
        device: where the model runs.
        out: the file to write.
    """
    rows = read_prompts(prompts)
    bridge = load_model(manifest.parent, device=device)
    with torch.no_grad():
        tensors = run_versions(bridge, rows, batch_size, device)
    with atomic(out) as temporary:
        save_file(tensors, temporary)


def run_versions(bridge: "TransformerBridge", rows: list[Prompt], batch_size: int, device: str) -> dict[str, Tensor]:
    """All tensors of `activations.safetensors`, on the CPU."""
    attention = torch.tensor([row.attention for row in rows], device=device)
    ends = torch.tensor([row.positions.end for row in rows], device=device)
    names = torch.tensor([[row.io_id, row.s_id] for row in rows], device=device)
    tokens = {
        version: torch.tensor([row.versions[version].tokens for row in rows], device=device) for version in VERSIONS
    }
    check_architecture(bridge, tokens["original"][:2], attention[:2])
    work = [
        (version, part)
        for version in VERSIONS
        for part in torch.split(torch.arange(len(rows), device=device), batch_size)
    ]
    kept: dict[str, list[Tensor]] = {}
    for version, part in track(work, "batches"):
        used = int(ends[part].max()) + 1  # padding beyond the longest prompt of the batch changes nothing
        found = run_batch(
            bridge, tokens[version][part, :used], attention[part, :used], ends[part], names[part], version
        )
        for name, tensor in found.items():
            kept.setdefault(f"{name}.{version}", []).append(tensor.cpu())
    return {name: torch.cat(parts) for name, parts in sorted(kept.items())}


def run_batch(
    bridge: "TransformerBridge",
    tokens: Int[Tensor, "batch pos"],
    attention: Int[Tensor, "batch pos"],
    ends: Int[Tensor, " batch"],
    names: Int[Tensor, "batch two"],
    version: Version,
) -> dict[str, Tensor]:
    """One forward pass; right padding is masked and only the last real position is read."""
    rows = torch.arange(len(tokens), device=tokens.device)
    layers = range(bridge.cfg.n_layers)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(value: Float[Tensor, "batch pos *rest"], hook: object) -> None:
            seen[name] = value[rows, ends].detach()

        return hook

    resid = [f"blocks.{layer}.hook_resid_pre" for layer in layers] + [f"blocks.{layers[-1]}.hook_resid_post"]
    z = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    wanted = (resid if version in RESID_VERSIONS else []) + (z if version in Z_VERSIONS else [])
    logits = bridge.run_with_hooks(tokens, attention_mask=attention, fwd_hooks=[(name, keep(name)) for name in wanted])
    last = logits[rows, ends].float()
    found = {
        "logits": (last - last.mean(-1, keepdim=True)).gather(1, names),
        "probs": last.softmax(-1).gather(1, names),
        "first": last.argmax(-1),
    }
    if version in RESID_VERSIONS:
        found["resid"] = torch.stack([seen[name] for name in resid], 1)
    if version in Z_VERSIONS:
        found["z"] = torch.stack([seen[name] for name in z], 1)
    return found


if __name__ == "__main__":
    run(collect)
