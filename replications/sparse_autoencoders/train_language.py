"""Step: one pass over the activations trains every SAE of the language model.

Out: a SAELens folder for each SAE (raw activation units, the training scale folded in), `index.json` (name, kind and
recipe of each, in order) and the training traces.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from common.core.files import sha256, write_json
from common.core.step import run
from common.core.tables import write_table
from common.saes.architectures.base import Batch
from common.saes.saelens import save_saelens
from common.saes.stream import Activations, as_batch, shuffled_dimensions
from common.saes.trainer import Batches, Trained, train
from replications.sparse_autoencoders.members import Member, members
from replications.sparse_autoencoders.settings import Sweep


def sources(early: Activations, late: Activations, size: int, device: str) -> Batches:
    """Batches of the three streams."""

    def batch(step: int, source: str) -> Batch:
        x = (late if source == "late" else early).batch(step, size)
        return as_batch((shuffled_dimensions(x, step) if source == "shuffled" else x).to(device))

    return batch


def train_language(
    *,
    early: Path,
    late: Path,
    sweep: Sweep,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    checkpoint: Path,
    index: Path,
    traces: Path,
) -> None:
    """Trains the sweep and writes folders beside `index`. `early` and `late` are manifests of shards."""
    chosen = members(sweep, seeds)
    streams = Activations(early.parent), Activations(late.parent)
    batches = sources(*streams, sweep.training.batch, device)
    data = sha256(early) + sha256(late)
    recipes = [one.recipe for one in chosen]
    trained = train(recipes, batches, sweep.training, checkpoint, data=data, device=device, keep=True)
    listed = []
    for one, result in zip(chosen, trained, strict=True):
        save(one, result, streams, index.parent)
        listed.append({"name": one.name, "kind": one.kind, "recipe": one.recipe.model_dump()})
    write_json(index, listed)
    frames = [
        pd.DataFrame({"name": one.name, "kind": one.kind, **{key: line.numpy() for key, line in result.traces.items()}})
        for one, result in zip(chosen, trained, strict=True)
    ]
    write_table(traces, pd.concat(frames).rename_axis("trace").reset_index())
    checkpoint.unlink(missing_ok=True)


def save(one: Member, result: Trained, streams: tuple[Activations, Activations], folder: Path) -> None:
    """Folds the training scale in, says where the SAE belongs, and writes its folder with densities."""
    data = streams[one.recipe.source == "late"]
    assert result.sae is not None
    sae = result.sae.to("cpu").folded(data.manifest.scale)
    sae = replace(sae, about=replace(sae.about, model=data.manifest.model, hook=data.manifest.hook))
    with torch.no_grad():
        fires = sae.encode(data.first(4 * 4096)) != 0
    save_saelens(sae, folder / one.name, density=fires.float().mean(0))


if __name__ == "__main__":
    run(train_language)
