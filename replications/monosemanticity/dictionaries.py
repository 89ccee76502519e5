"""Step: dictionaries on the MLP's activations, of every trained model and of the same models before training.

Bricken et al. 2023 train ReLU autoencoders with an L1 penalty and resampling on 8 billion activations; here most are
TopK (Gao et al. 2024) with the auxiliary loss, which is steady in runs of a few hundred steps and gives every width the
same L0. Kinds:

- `trained`: every width, on a trained model;
- `relu`: the paper's architecture, the narrowest width, its penalty steered to the same L0;
- `twin1`, `twin2`...: the narrowest width again, from other initial weights on the same batches;
- `start`: the same dictionaries before their first step (random rows, encoder equal to decoder, the same k);
- `untrained`: one width, on the model before training (Heap et al. 2025).

Out: a SAELens folder of each, `index.json` (name, kind, width, seed) and the training traces.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase

import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import sha256, write_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.bpe import stretches
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Batch, Progress
from common.saes.recipe import ArchitectureName, Recipe
from common.saes.sae import Sae
from common.saes.saelens import save_saelens
from common.saes.stream import as_batch
from common.saes.trainer import train
from replications.monosemanticity.model import HOOK, Models, activations, load_models
from replications.monosemanticity.settings import Dictionaries

SEEDS = 100  # initial weights of dictionaries that one seed of a model can have
AFTER_TRAINING = 10_000_000  # a step number that no training has, so the windows are others


class Stream:
    """Shuffled batches of one network's activations, scaled to a mean squared norm of 1, epoch after epoch."""

    def __init__(self, x: Float[Tensor, "token d_mlp"], size: int, device: str) -> None:
        self.scale = float(x.double().square().sum(1).mean()) ** -0.5
        self.x, self.size, self.device = x, size, device
        self.order = lru_cache(1)(lambda epoch: torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)))

    def __call__(self, step: int, source: str) -> Batch:
        epoch, place = divmod(step, max(1, len(self.x) // self.size))
        rows: Int[Tensor, " row"] = self.order(epoch)[place * self.size : (place + 1) * self.size]
        return as_batch((self.x[rows] * self.scale).to(self.device))


class DictionariesFiles(Files):
    tokens: Path
    models: Path
    index: Path
    """lists the dictionaries, whose folders lie beside it"""
    traces: Path


def dictionaries(files: DictionariesFiles, settings: Dictionaries, run: RunInfo) -> None:
    """Trains all dictionaries; an interrupted training goes on from checkpoints beside `index`."""
    trained, device = load_models(files.models), run.device
    stream = load_file(files.tokens)["train"].long()
    checkpoint = files.index.with_name(f"{files.index.name}.checkpoint")
    listed, frames = [], []
    plans = {
        "trained": (
            trained,
            [
                *(("trained", width) for width in settings.widths),
                *((twin, settings.widths[0]) for twin in twins(settings.twins)),
                ("relu", settings.widths[0]),
            ],
        ),
        "untrained": (trained.untrained(), [("untrained", settings.width)]),
    }
    for network, (source, wanted) in plans.items():
        for place, seed in enumerate(source.seeds):
            own = Stream(harvest(source, place, stream, settings.tokens, device), settings.training.batch, device)
            recipes = [
                recipe(settings, width, SEEDS * seed + at, "relu_bricken" if kind == "relu" else "topk")
                for at, (kind, width) in enumerate(wanted)
            ]
            data = f"{network} {seed} {sha256(files.models)}"
            kept = checkpoint.with_name(f"{checkpoint.name}.{network}_{ascii_lowercase[place]}")
            found = train(recipes, own, settings.training, kept, data=data, device=device)
            for (kind, width), one in zip(wanted, found, strict=True):
                assert one.sae is not None
                saved = {kind: one.sae}
                if kind == "trained":
                    saved["start"] = start(one.recipe, own(0, ""))
                for name, sae in saved.items():
                    save(sae, own.scale, files.index.parent / f"{name}-{width}-s{seed}")
                    listed.append({"name": f"{name}-{width}-s{seed}", "kind": name, "width": width, "seed": seed})
                lines = {key: line.numpy() for key, line in one.traces.items()}
                frames.append(pd.DataFrame({"kind": kind, "width": width, "seed": seed, **lines}))
    write_table(files.traces, pd.concat(frames).rename_axis("trace").reset_index())
    write_json(files.index, listed)


def twins(count: int) -> list[str]:
    """The kinds of the narrowest dictionaries from other starts."""
    return [f"twin{number}" for number in range(1, count + 1)]


def recipe(dictionaries: Dictionaries, width: int, seed: int, architecture: ArchitectureName = "topk") -> Recipe:
    """No two dictionaries of a network share a seed: the narrow one's first rows would be those of the wide one."""
    values = {"architecture": architecture, "d_sae": width, "sparsity": float(dictionaries.sparsity), "seed": seed}
    return Recipe.model_validate(values)


def harvest(models: Models, place: int, stream: Tensor, count: int, device: str) -> Float[Tensor, "token d_mlp"]:
    """Activations of one model on random stretches of the training text, the first position of each left out."""
    length = models.shape.n_ctx
    windows = stretches(stream, -(-count // (length - 1)), length, models.seeds[place], AFTER_TRAINING)
    weights = {name: value.to(device) for name, value in models.one(place).items()}
    return activations(weights, windows, models.shape)[:, 1:].flatten(0, 1)[:count]


def start(recipe: Recipe, batch: Batch) -> Sae:
    """The dictionary as it is before its first step."""
    architecture = ARCHITECTURES[recipe.architecture]
    weights = architecture.initial(recipe, batch, torch.Generator().manual_seed(recipe.seed))
    none = torch.zeros(1)
    return architecture.export(weights, recipe, Progress(none.long()[None], none, none, none.double()))


def save(sae: Sae, scale: float, folder: Path) -> None:
    """Folds the training scale in and writes the folder."""
    raw = sae.to("cpu").folded(scale)
    save_saelens(replace(raw, about=replace(raw.about, model="one-layer", hook=HOOK)), folder)


if __name__ == "__main__":
    run_step(dictionaries)
