"""Step: runs the model once over every version of every prompt and keeps what the measurements need.

Kept at END only: the final residual stream, the outputs of all heads before W_O, and the answers; and over all
positions the mean head outputs of the ABC prompts of each template, with which heads are knocked out.
`activations.safetensors` holds, for a version v:

    logits.v   [prompt, two]                      logits of IO and S of the *original* prompt above the vocabulary mean
    probs.v    [prompt, two]                      their probabilities
    first.v    [prompt]                           token id of the most likely next token
    final.v    [prompt, d_model]                  residual stream after the last block
    z.v        [prompt, layer, head, d_head]
    slots.abc  [prompt, slot], slot_probs.abc     logits and probabilities of the three names that stand in ABC prompts
    mean.t, mean_few.t                            [layer, pos, head, d_head], template t, all or a few ABC prompts
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step, track
from common.data.models import load_model
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from replications.ioi_circuit.batches import Batch
from replications.ioi_circuit.dataset import VERSIONS, Prompt, Version, read_prompts
from replications.ioi_circuit.residual import check_architecture, read_names
from replications.ioi_circuit.settings import Collect


class CollectFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path


def collect(files: CollectFiles, settings: Collect, run: RunInfo) -> None:
    """Writes `activations.safetensors`."""
    rows = read_prompts(files.prompts)
    decoder = Decoder(load_model(files.manifest.parent, device=run.device), len(rows[0].attention))
    with torch.no_grad():
        tensors = run_versions(decoder, rows, settings.batch_size, settings.small_group)
    with atomic(files.activations) as temporary:
        save_file(tensors, temporary)


def run_versions(decoder: Decoder, rows: list[Prompt], batch_size: int, small_group: int) -> dict[str, Tensor]:
    """All tensors of `activations.safetensors`, on the CPU, prompts in the order of `rows`."""
    device = decoder.W_O[0].device.type
    first = Batch(rows[:2], device)
    check_architecture(decoder.bridge, first.tokens("original"), first.mask.long())
    order = sorted(range(len(rows)), key=lambda at: rows[at].template)
    kept: dict[str, list[Tensor]] = {}
    z: dict[int, list[Tensor]] = {}
    work = [(version, start) for version in VERSIONS for start in range(0, len(rows), batch_size)]
    for version, start in track(work, "batches"):
        batch = Batch([rows[at] for at in order[start : start + batch_size]], device)
        cache = decoder.forward(batch.tokens(version), batch.mask, keep=True)
        for name, tensor in read_batch(decoder, cache, batch, version).items():
            kept.setdefault(name, []).append(tensor.cpu())
        if version == "abc":
            for row, prompt in enumerate(batch.prompts):
                own = [layer[row, : prompt.positions.end + 1] for layer in cache.z]
                z.setdefault(prompt.template, []).append(torch.stack(own).cpu())
    back = torch.tensor(order).argsort()
    tensors = {name: torch.cat(parts)[back] for name, parts in kept.items()}
    for template, parts in z.items():
        tensors[f"mean.{template}"] = torch.stack(parts).mean(0)
        tensors[f"mean_few.{template}"] = torch.stack(parts[:small_group]).mean(0)
    return dict(sorted(tensors.items()))


def read_batch(decoder: Decoder, cache: Cache, batch: Batch, version: Version) -> dict[str, Tensor]:
    """What is kept of one pass, read at END."""
    end = batch.at("end")
    read = {f"{name}.{version}": value for name, value in answers(decoder, cache, batch.names, end).items()}
    if version == "abc":
        slots = torch.tensor([row.abc_ids for row in batch.prompts], device=end.device)
        own = answers(decoder, cache, slots, end)
        read |= {"slots.abc": own["logits"], "slot_probs.abc": own["probs"]}
    read[f"final.{version}"] = at_position(cache.final, end)
    read[f"z.{version}"] = torch.stack([at_position(x, end) for x in cache.z], 1)
    return read


def answers(
    decoder: Decoder, cache: Cache, names: Int[Tensor, "batch name"], end: Int[Tensor, " batch"]
) -> dict[str, Float[Tensor, "batch ..."] | Int[Tensor, " batch"]]:
    """Logits and probabilities of some names at END, and the likeliest token."""
    final = at_position(cache.final, end)
    logits = decoder.bridge.ln_final(final) @ decoder.bridge.W_U + decoder.bridge.b_U
    read = read_names(decoder.bridge, final[:, None], names)[:, 0]
    return {"logits": read, "probs": logits.softmax(-1).gather(1, names), "first": logits.argmax(-1)}


if __name__ == "__main__":
    run_step(collect)
