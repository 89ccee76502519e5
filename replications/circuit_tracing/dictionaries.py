"""Step: trains a transcoder for each MLP of each two-hop model, all in one batched job, and makes their controls.

Kinds: `trained`; `other`, the same from other random starts; `untrained`, random encoder rows with the threshold that
gives the same target L0. Their decoder is the one that reconstructs best from them (ridge regression). Inputs and
targets are those of prompts that the models were trained on, position 0 left out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures.base import Batch, unit_rows
from common.saes.metrics import fvu, l0
from common.saes.recipe import Recipe
from common.saes.sae import About, Sae
from common.saes.trainer import train as train_saes
from common.toys.settings import Architecture
from common.toys.training import CHECKPOINTS
from common.toys.transformer import Weights
from replications.circuit_tracing.ridge import ridge
from replications.circuit_tracing.settings import Dictionaries, Toy
from replications.circuit_tracing.task import tables
from replications.circuit_tracing.toy import NAME, architecture, hook, hook_out, one, read
from replications.circuit_tracing.train import load_models

KINDS = ("trained", "other", "untrained")
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
OTHER = 1000  # added to a seed for the second start
RIDGE = 1e-3  # strength, times the mean of the Gram matrix's diagonal


class DictionariesFiles(Files):
    models: Path
    dictionaries: Path
    """for each kind and tensor, [seed layer ...]"""
    table: Path


def dictionaries(files: DictionariesFiles, settings: Toy, run: RunInfo) -> None:
    """Trains and writes; the table has FVU, L0 and live share by kind, seed and layer, on held-out prompts."""
    weights, _, seeds = load_models(files.models)
    shape = architecture(settings.model, settings.task)
    each = [tables(settings.task, seed) for seed in seeds]
    seen = [pairs(one(weights, at), table.prompts[~table.held_out], shape) for at, table in enumerate(each)]
    x, y = (torch.cat([found[part] for found in seen]) for part in (0, 1))  # [seed layer, token, d_model]
    saes = fitted(x, y, settings.dictionaries, seeds, shape.n_layers, run, files.dictionaries)
    saes["untrained"] = [
        untrained(sae, x[at], y[at], settings.dictionaries.k, seeds[at // shape.n_layers] * shape.n_layers + at)
        for at, sae in enumerate(saes["trained"])
    ]
    rows = []
    for at, table in enumerate(each):
        inputs, targets = pairs(one(weights, at), table.prompts[table.held_out], shape)
        for kind, found in saes.items():
            for layer in range(shape.n_layers):
                sae = found[at * shape.n_layers + layer]
                latents = sae.encode(inputs[layer])
                rows.append({
                    "kind": kind, "seed": seeds[at], "layer": layer, "fvu": fvu(targets[layer], sae.decode(latents)),
                    "l0": l0(latents), "live": float((latents > 0).any(0).float().mean()),
                })  # fmt: skip
    write_table(files.table, rows)
    tensors = {
        f"{kind}.{name}": rearrange(
            torch.stack([getattr(sae, name) for sae in found]),
            "(seed layer) ... -> seed layer ...",
            seed=len(seeds),
        ).contiguous()
        for kind, found in saes.items()
        for name in TENSORS
    }
    with atomic(files.dictionaries) as temporary:
        save_file(tensors, temporary)


def pairs(
    weights: Weights, prompts: Int[Tensor, "prompt pos"], shape: Architecture
) -> tuple[Float[Tensor, "layer token d_model"], Float[Tensor, "layer token d_model"]]:
    """What the MLPs read and write behind the first position."""
    found = read(weights, prompts, shape)
    return found.mlp_in[:, :, 1:].flatten(1, 2), found.mlp_out[:, :, 1:].flatten(1, 2)


def fitted(
    x: Float[Tensor, "member token d_model"],
    y: Float[Tensor, "member token d_model"],
    settings: Dictionaries,
    seeds: list[int],
    layers: int,
    run: RunInfo,
    path: Path,
) -> dict[str, list[Sae]]:
    """Two transcoders for each member, from different starts."""
    to_unit, out_unit = (1 / one.square().sum(-1).mean(-1).sqrt() for one in (x, y))
    inputs, targets = x * to_unit[:, None, None], y * out_unit[:, None, None]
    members = [(seed + more, layer) for more in (0, OTHER) for seed in seeds for layer in range(layers)]
    recipes = [
        Recipe.model_validate(
            {
                "architecture": "transcoder",
                "d_sae": settings.d_sae,
                "sparsity": settings.k,
                "seed": seed * layers + layer,
            }
        )
        for seed, layer in members
    ]

    def batches(step: int, source: str) -> Batch:
        draw = torch.Generator().manual_seed(step)
        chosen = torch.randint(x.shape[1], (settings.training.batch,), generator=draw)
        both = (part[:, chosen].repeat(2, 1, 1).to(run.device) for part in (inputs, targets))
        return Batch(*both)

    data = f"{path.parent} {seeds} {float(x.sum()):.6g}"
    name = f"circuit_tracing_{run.scale}_{path.parent.name}_{seeds[0]}.safetensors"
    done = train_saes(recipes, batches, settings.training, CHECKPOINTS / name, data=data, device=run.device)
    found = []
    for at, trained in enumerate(done):
        assert trained.sae is not None
        place = at % len(x)
        found.append(trained.sae.to("cpu").folded(float(to_unit[place]), float(out_unit[place])))
    return {"trained": found[: len(x)], "other": found[len(x) :]}


def untrained(
    sae: Sae,
    x: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token d_model"],
    k: float,
    seed: int,
    strengths: Sequence[float] = (RIDGE,),
) -> Sae:
    """Random features with the same target L0 (reached on `x`), and their best decoder."""
    draw = torch.Generator().manual_seed(seed)
    W_enc = unit_rows(torch.randn(sae.d_sae, sae.d_in, generator=draw)).mT.contiguous()
    b_enc = -(x.mean(0) @ W_enc)
    z = x @ W_enc + b_enc
    level = float(z.flatten().kthvalue(z.numel() - round(k * len(x))).values)
    threshold = torch.full((sae.d_sae,), max(level, 0.0))
    latents = csr_array(torch.where(z > threshold, z, 0.0).numpy()).astype(np.float64)
    W_dec = ridge(latents, (y - y.mean(0)).double().numpy(), strengths).float()
    return Sae(sae.about, "jumprelu", W_enc, b_enc, W_dec, y.mean(0), threshold=threshold, centred=False)


def load_dictionaries(path: Path, place: int) -> dict[str, list[Sae]]:
    """The transcoders of one model, by kind and layer. UserError if the file is missing."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run `make circuit_tracing`")
    stored = load_file(path)
    found: dict[str, list[Sae]] = {}
    for kind in KINDS:
        parts = {name: stored[f"{kind}.{name}"][place] for name in TENSORS}
        found[kind] = []
        for layer in range(len(parts["b_dec"])):
            own = {name: value[layer] for name, value in parts.items()}
            about = About("transcoder", NAME, hook(layer), hook_out(layer))
            found[kind].append(Sae(about, "jumprelu", **own, centred=False))
    return found


if __name__ == "__main__":
    run_step(dictionaries)
