"""Step: dictionaries on the MLP's activations, of every trained model and of the same models before training.

Bricken et al. 2023 train ReLU autoencoders with an L1 penalty and resampling on 8 billion activations. Here most are
TopK (Gao et al. 2024) with the auxiliary loss, which needs fewer steps and gives every width the same L0. Kinds:

- `trained`: every width, on a trained model;
- `twin` and `twin2` to `twin4`: the narrowest width again, from other initial weights on the same batches;
- `relu`: the paper's architecture at the widest width, its penalty steered to the same L0;
- `start`: the same dictionaries before their first step (random rows, encoder equal to decoder, the same k);
- `untrained`: the widest width on the model before training (Heap et al. 2025), trained in the same way.

Out: a SAELens folder of each, and `index.json`.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import sha256
from common.core.step import Files, RunInfo, run_step
from common.data.bpe import stretches
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Batch, Progress, member
from common.saes.index import Entry, write_index
from common.saes.recipe import Recipe
from common.saes.sae import Sae
from common.saes.saelens import save_saelens
from common.saes.stream import as_batch
from common.saes.trainer import first_weights, train
from replications.monosemanticity.model import HOOK, Models, load_models, read
from replications.monosemanticity.settings import Dictionaries

SEEDS = 100  # initial weights of dictionaries that one seed of a model can have
FIRST_TWIN = 50  # among these: behind all widths, `twin` and `relu`
TWINS = ("twin", "twin2", "twin3", "twin4")
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


def dictionaries(files: DictionariesFiles, settings: Dictionaries, run: RunInfo) -> None:
    """Trains all dictionaries; an interrupted training goes on from checkpoints beside `index`."""
    trained, device = load_models(files.models), run.device
    stream = load_file(files.tokens)["train"].long()
    narrowest, widest = settings.widths[0], settings.widths[-1]
    wanted = [*(("trained", width) for width in settings.widths), (TWINS[0], narrowest)]
    wanted += [("relu", widest)] if settings.relu else []
    listed: list[Entry] = []
    for network, source, kinds, first in (
        ("trained", trained, wanted, 0),
        # apart: in one group with them the others would be rounded otherwise
        ("twins", trained, [(name, narrowest) for name in TWINS[1:]], FIRST_TWIN),
        ("untrained", trained.untrained(), [("untrained", widest)], 0),
    ):
        for place, seed in enumerate(source.seeds):
            own = Stream(harvest(source, place, stream, settings.tokens, device), settings.training.batch, device)
            recipes = [
                recipe(settings, width, SEEDS * seed + at, relu=kind == "relu")
                for at, (kind, width) in enumerate(kinds, first)
            ]
            kept = files.index.with_name(f"{files.index.name}.checkpoint.{network}_{ascii_lowercase[place]}")
            data = f"{network} {seed} {sha256(files.models)}"
            found = train(recipes, own, settings.training, kept, data=data, device=device)
            for (kind, width), one in zip(kinds, found, strict=True):
                assert one.sae is not None
                saved = {kind: one.sae}
                if kind == "trained":
                    saved["start"] = start(one.recipe, own(0, ""))
                for name, sae in saved.items():
                    entry = Entry(name=f"{name}-{width}-s{seed}", kind=name, recipe=one.recipe)
                    save(sae, own.scale, files.index.parent / entry.name)
                    listed.append(entry)
    write_index(files.index, listed)


def recipe(dictionaries: Dictionaries, width: int, seed: int, *, relu: bool = False) -> Recipe:
    """No two dictionaries of a network share a seed: the narrow one's first rows would be those of the wide one."""
    architecture = "relu_bricken" if relu else "topk"
    values = {"architecture": architecture, "d_sae": width, "sparsity": float(dictionaries.sparsity), "seed": seed}
    return Recipe.model_validate(values)


def harvest(models: Models, place: int, stream: Tensor, count: int, device: str) -> Float[Tensor, "token d_mlp"]:
    """Activations of one model on random stretches of the training text, both ends of each left out."""
    windows = harvest_windows(models, place, stream, count)
    weights = {name: value.to(device) for name, value in models.one(place).items()}
    return read(weights, windows, models.shape).x[:count].cpu()


def harvest_windows(models: Models, place: int, stream: Tensor, count: int) -> Int[Tensor, "window pos"]:
    """The stretches on which a model is harvested."""
    length = models.shape.n_ctx
    return stretches(stream, -(-count // (length - 2)), length, models.seeds[place], AFTER_TRAINING)


def start(recipe: Recipe, batch: Batch) -> Sae:
    """The dictionary as it is before its first step."""
    weights = member(first_weights([recipe], batch, "cpu"), 0)
    none = torch.zeros(1)
    progress = Progress(none.long()[None], none, none, none.double())
    found = ARCHITECTURES[recipe.architecture].export(weights, recipe, progress)
    assert found is not None
    return found


def save(sae: Sae, scale: float, folder: Path) -> None:
    """Folds the training scale in and writes the folder."""
    raw = sae.to("cpu").folded(scale)
    save_saelens(replace(raw, about=replace(raw.about, model="one-layer", hook=HOOK)), folder)


if __name__ == "__main__":
    run_step(dictionaries)
