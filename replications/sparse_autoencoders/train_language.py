"""Step: trains every SAE of the language model, in three passes over the same batches (see `sweep`).

Out: a SAELens folder for each SAE (raw activation units, the training scale folded in), their index, and the training
traces of the first pass.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from common.core.errors import UserError
from common.core.files import sha256
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures.base import Batch
from common.saes.index import Entry, write_index
from common.saes.saelens import save_saelens
from common.saes.stream import Activations, as_batch, shuffled_dimensions
from common.saes.trainer import Batches, Trained, train
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.soft_frozen import train_soft_frozen
from replications.sparse_autoencoders.sweep import further, soft_frozen, swept

DENSITY_SAMPLE = 4 * 4096  # training activations on which densities are counted


class TrainFiles(Files):
    early: Path
    """manifest of the activations before the studied layer"""
    late: Path | None = None
    """that of the later layer"""
    index: Path
    traces: Path


Streams = dict[str, Activations]
"""Activations by the layer they come from: `early` and, where there is one, `late`."""


def batches_of(streams: Streams, size: int, device: str) -> Batches:
    """Batches of the sources that recipes name."""

    def batch(step: int, source: str) -> Batch:
        x = streams["late" if source == "late" else "early"].batch(step, size)
        return as_batch((shuffled_dimensions(x, step) if source == "shuffled" else x).to(device))

    return batch


def train_language(files: TrainFiles, settings: Sweep, run: RunInfo) -> None:
    """Trains the sweep and writes folders beside the index."""
    manifests = {"early": files.early} | ({"late": files.late} if files.late else {})
    if settings.late != ("late" in manifests):
        raise UserError("sweep.late and the manifest of the later layer go together; give both or none")
    streams = {name: Activations(path.parent) for name, path in manifests.items()}
    batches = batches_of(streams, settings.training.batch, run.device)
    data = "".join(map(sha256, manifests.values()))
    passes = {"swept": swept, "soft": soft_frozen, "further": further}
    entries: list[Entry] = []
    left: list[Path] = []
    for name, members in passes.items():
        chosen = members(settings, run.seeds)
        recipes = [one.recipe for one in chosen if one.recipe]
        if not recipes:
            continue
        left.append(files.index.with_name(f"{files.index.name}.{name}"))
        how = train_soft_frozen if name == "soft" else train
        trained = how(recipes, batches, settings.training, left[-1], data=data, device=run.device, keep=True)
        for one, result in zip(chosen, trained, strict=True):
            save(one, result, streams, files.index.parent)
        if name == "swept":
            write_table(files.traces, traces_of(chosen, trained))
        entries += chosen
    write_index(files.index, entries)
    for path in left:
        path.unlink(missing_ok=True)


def traces_of(entries: list[Entry], trained: list[Trained]) -> pd.DataFrame:
    """One row per SAE and traced step."""
    frames = [
        pd.DataFrame({"name": one.name, "kind": one.kind, **{key: line.numpy() for key, line in result.traces.items()}})
        for one, result in zip(entries, trained, strict=True)
    ]
    return pd.concat(frames).rename_axis("trace").reset_index()


def save(entry: Entry, result: Trained, streams: Streams, folder: Path) -> None:
    """Folds the training scale in, says where the SAE belongs, and writes its folder with densities."""
    data = streams["late" if result.recipe.source == "late" else "early"]
    assert result.sae is not None
    sae = result.sae.to("cpu").folded(data.manifest.scale)
    sae = replace(sae, about=replace(sae.about, model=data.manifest.model, hook=data.manifest.hook))
    with torch.no_grad():
        fires = sae.encode(data.first(DENSITY_SAMPLE)) != 0
    save_saelens(sae, folder / entry.name, density=fires.float().mean(0))


if __name__ == "__main__":
    run_step(train_language)
