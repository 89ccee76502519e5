"""Step: trains every SAE of the language model, pass by pass (see `sweep`).

Out: a SAELens folder for each SAE (raw activation units, the training scale folded in), and their index. Also the first
decoder rows of each, and the training traces.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from common.core.errors import UserError
from common.core.files import atomic, sha256
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures.base import Batch
from common.saes.index import Entry, write_index
from common.saes.saelens import save_saelens
from common.saes.stream import Activations, as_batch
from common.saes.trainer import Batches, Trained, first_weights, train
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.soft_frozen import train_soft_frozen
from replications.sparse_autoencoders.sweep import passes

DENSITY_SAMPLE = 4 * 4096  # training activations on which densities are counted


class TrainFiles(Files):
    main: Path
    """manifest of the activations before the studied layer"""
    second: Path | None = None
    """that of the second layer"""
    index: Path
    starts: Path
    """first decoder rows by name of the main dictionaries [d_sae d_model]"""
    traces: Path


Streams = dict[str, Activations]
"""Activations by the layer they come from: `main` and, where there is one, `second`."""


def batches_of(streams: Streams, size: int, device: str) -> Batches:
    """Batches of the sources that recipes name."""

    def batch(step: int, source: str) -> Batch:
        return as_batch(streams["second" if source == "second" else "main"].batch(step, size).to(device))

    return batch


def train_language(files: TrainFiles, settings: Sweep, run: RunInfo) -> None:
    """Trains the sweep and writes folders beside the index."""
    manifests = {"main": files.main} | ({"second": files.second} if files.second else {})
    if settings.second != ("second" in manifests):
        raise UserError("sweep.second and the manifest of the second layer go together; give both or none")
    streams = {name: Activations(path.parent) for name, path in manifests.items()}
    batches = batches_of(streams, settings.training.batch, run.device)
    data = "".join(map(sha256, manifests.values()))
    entries: list[Entry] = []
    frames: list[pd.DataFrame] = []
    left: list[Path] = []
    for one in passes(settings, run.seeds):
        recipes = [entry.recipe for entry in one.entries if entry.recipe]
        left.append(files.index.with_name(f"{files.index.name}.{one.name}"))
        how = train_soft_frozen if one.name == "soft" else train
        trained = how(recipes, batches, one.training, left[-1], data=data, device=run.device, keep=True)
        for entry, result in zip(one.entries, trained, strict=True):
            save(entry, result, streams, files.index.parent)
        frames.append(traces_of(one.entries, trained))
        entries += one.entries
    mains = [entry for entry in entries if entry.kind == "main" and entry.recipe]
    start = first_weights([entry.recipe for entry in mains if entry.recipe], batches(0, "activations"), "cpu")["W_dec"]
    with atomic(files.starts) as path:
        save_file({entry.name: rows.clone() for entry, rows in zip(mains, start, strict=True)}, path)
    write_table(files.traces, pd.concat(frames))
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
    data = streams["second" if result.recipe.source == "second" else "main"]
    assert result.sae is not None
    sae = result.sae.to("cpu").folded(data.manifest.scale)
    sae = replace(sae, about=replace(sae.about, model=data.manifest.model, hook=data.manifest.hook))
    with torch.no_grad():
        fires = sae.encode(data.first(DENSITY_SAMPLE)) != 0
    save_saelens(sae, folder / entry.name, density=fires.float().mean(0))


if __name__ == "__main__":
    run_step(train_language)
