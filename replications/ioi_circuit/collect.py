"""Step: runs the model once over every version of every prompt and keeps what the measurements need.

Kept at END only: the final residual stream, the outputs of all heads before W_O, and the answers; and over all
positions the mean head outputs of the ABC prompts of each template, with which heads are knocked out.
`activations.safetensors` holds, for a version v:

    logits.v   [prompt, two]                      logits of IO and S of the *original* prompt above the vocabulary mean
    probs.v    [prompt, two]                      their probabilities
    first.v    [prompt]                           token id of the most likely next token
    final.v    [prompt, d_model]                  residual stream after the last block
    z.v        [prompt, layer, head, d_head]
    mlp.v      [prompt, layer, d_model]           outputs of the MLPs, for `original` and `abc`
    slots.abc  [prompt, slot], slot_probs.abc     logits and probabilities of the three names that stand in ABC prompts
    mean.t, mean_few.t                            [layer, pos, head, d_head], template t, all or a few ABC prompts
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step, track
from common.data.models import load_model
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position, at_positions, rerun, window
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


class Last(NamedTuple):
    """What is kept of one version of a batch, at END."""

    final: Float[Tensor, "batch d_model"]
    z: Float[Tensor, "batch layer head d_head"]
    mlp: Float[Tensor, "batch layer d_model"] | None = None
    """of whole passes alone"""


def run_versions(decoder: Decoder, rows: list[Prompt], batch_size: int, small_group: int) -> dict[str, Tensor]:
    """All tensors of `activations.safetensors`, on the CPU, prompts in the order of `rows`."""
    device = decoder.W_O[0].device.type
    first = Batch(rows[:2], device)
    check_architecture(decoder.bridge, first.tokens("original"), first.mask.long())
    order = sorted(range(len(rows)), key=lambda at: rows[at].template)
    kept: dict[str, list[Tensor]] = {}
    z: dict[int, list[Tensor]] = {}
    for start in track(range(0, len(rows), batch_size), "batches"):
        batch = Batch([rows[at] for at in order[start : start + batch_size]], device)
        clean, abc = (decoder.forward(batch.tokens(one), batch.mask, keep=True) for one in ("original", "abc"))
        end = batch.at("end")
        for version in VERSIONS:
            whole = {"original": clean, "abc": abc}.get(version)
            last = after_prefix(decoder, clean, batch, version) if whole is None else last_of(whole, end)
            for name, tensor in read_batch(decoder, last, batch, version).items():
                kept.setdefault(name, []).append(tensor.cpu())
        for row, prompt in enumerate(batch.prompts):
            own = [layer[row, : prompt.positions.end + 1] for layer in abc.z]
            z.setdefault(prompt.template, []).append(torch.stack(own).cpu())
    back = torch.tensor(order).argsort()
    tensors = {name: torch.cat(parts)[back] for name, parts in kept.items()}
    for template, parts in z.items():
        tensors[f"mean.{template}"] = torch.stack(parts).mean(0)
        tensors[f"mean_few.{template}"] = torch.stack(parts[:small_group]).mean(0)
    return dict(sorted(tensors.items()))


def last_of(cache: Cache, end: Int[Tensor, " batch"]) -> Last:
    """END of a whole pass."""
    z = torch.stack([at_position(one, end) for one in cache.z], 1)
    after = [*cache.resid_pre[1:], cache.final]
    mlp = [at_position(one, end) - at_position(mid, end) for one, mid in zip(after, cache.resid_mid, strict=True)]
    return Last(at_position(cache.final, end), z, torch.stack(mlp, 1))


def after_prefix(decoder: Decoder, clean: Cache, batch: Batch, version: Version) -> Last:
    """END of a version that begins as the prompt does: only positions from the first other token on are computed."""
    tokens, end = batch.tokens(version), batch.at("end")
    first = (tokens != batch.tokens("original")).int().argmax(1)
    at = window(first, end, tokens.shape[1])
    rows, step = torch.arange(len(end), device=end.device), end - first
    found: list[Tensor] = []

    def keep(_: int, z: Tensor) -> Tensor:
        found.append(z[0, rows, step])
        return z

    embedded = at_positions(decoder.embed(tokens, batch.mask), at)
    final = rerun(decoder, clean, 0, at, end, embedded[None], edit=keep)[0]
    return Last(final, torch.stack(found, 1))


def read_batch(decoder: Decoder, last: Last, batch: Batch, version: Version) -> dict[str, Tensor]:
    """The tensors of one version of a batch."""
    read = {f"{name}.{version}": value for name, value in answers(decoder, last.final, batch.names).items()}
    if version == "abc":
        slots = torch.tensor([row.abc_ids for row in batch.prompts], device=last.final.device)
        own = answers(decoder, last.final, slots)
        read |= {"slots.abc": own["logits"], "slot_probs.abc": own["probs"]}
    read |= {f"final.{version}": last.final, f"z.{version}": last.z}
    return read if last.mlp is None else read | {f"mlp.{version}": last.mlp}


def answers(
    decoder: Decoder, final: Float[Tensor, "batch d_model"], names: Int[Tensor, "batch name"]
) -> dict[str, Float[Tensor, "batch ..."] | Int[Tensor, " batch"]]:
    """Logits and probabilities of some names at END, and the likeliest token."""
    logits = decoder.bridge.ln_final(final) @ decoder.bridge.W_U + decoder.bridge.b_U
    read = read_names(decoder.bridge, final[:, None], names)[:, 0]
    return {"logits": read, "probs": logits.softmax(-1).gather(1, names), "first": logits.argmax(-1)}


if __name__ == "__main__":
    run_step(collect)
