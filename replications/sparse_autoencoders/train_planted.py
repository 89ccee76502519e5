"""Step: trains SAEs on the planted worlds, beside dictionaries whose rows may not leave their random start.

Experiments: BatchTopK on the easy and the hard world; pairs with and without AuxK at a width with more latents than
features (`with_auxk`, `without_auxk`); and in both worlds the baselines of Korznikov et al. 2026, a frozen decoder and
a soft-frozen one (`soft_frozen`). The baselines get a seventh of the steps: what they explain is a lower bound. What
they recover is bounded by where their rows may go.

Out: one safetensors file with decoder, encoder, biases, threshold and traces of every SAE, named
`<experiment>.<tensor>` with a leading seed axis.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.saes.recipe import Training
from common.saes.trainer import Trained, train
from replications.sparse_autoencoders.settings import Planted, PlantedWorld, World
from replications.sparse_autoencoders.soft_frozen import train_soft_frozen
from replications.sparse_autoencoders.sweep import recipe
from replications.sparse_autoencoders.worlds import Stream

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
WORLDS, REVIVAL = ("easy", "hard"), {"with_auxk": True, "without_auxk": False}
SHARE = 0.15  # of the steps, for the baselines


class TrainFiles(Files):
    models: Path


def train_planted(files: TrainFiles, settings: Planted, run: RunInfo) -> None:
    """Trains everything, one SAE per seed and experiment."""
    kept: dict[str, Tensor] = {}
    left: list[Path] = []

    def checkpoint(name: str) -> Path:
        left.append(files.models.with_name(f"{files.models.name}.{name}"))
        return left[-1]

    for name in WORLDS:
        planted: PlantedWorld = getattr(settings, name)
        kept |= packed(
            name, fit(planted.world, planted.d_sae, planted.training, run.seeds, run.device, checkpoint(name))
        )
    for name, auxiliary in REVIVAL.items():
        revival = settings.revival
        own = fit(
            settings.easy.world, revival.d_sae, revival.training, run.seeds, run.device, checkpoint(name),
            auxiliary=auxiliary,
        )  # fmt: skip
        kept |= packed(name, own)
    for name in WORLDS:
        planted = getattr(settings, name)
        paths = checkpoint(f"{name}_soft"), checkpoint(f"{name}_frozen")
        kept |= held_back(name, planted, run.seeds, run.device, *paths)
    with atomic(files.models) as temporary:
        save_file(kept, temporary)
    for path in left:
        path.unlink(missing_ok=True)


def fit(
    world: World,
    d_sae: int,
    training: Training,
    seeds: list[int],
    device: str,
    checkpoint: Path,
    *,
    auxiliary: bool = True,
) -> list[Trained]:
    """BatchTopK SAEs of all seeds, each on its own world. The checkpoint stays."""
    recipes = [recipe("batch_topk", d_sae, world.active, seed, auxiliary=auxiliary) for seed in seeds]
    print(f"world of {world.features} features in {world.d} dimensions, width {d_sae}", flush=True)
    stream = Stream(world, seeds, training.batch, device)
    return train(recipes, stream, training, checkpoint, data=world.model_dump_json(), device=device, keep=True)


def held_back(
    name: str, planted: PlantedWorld, seeds: list[int], device: str, soft_path: Path, frozen_path: Path
) -> dict[str, Tensor]:
    """Soft-frozen and frozen dictionaries of one world. The checkpoints stay."""
    world, k, training = planted.world, planted.world.active, shortened(planted.training)
    stream, data = Stream(world, seeds, training.batch, device), world.model_dump_json()
    free = [recipe("batch_topk", planted.d_sae, k, seed) for seed in seeds]
    frozen = [recipe("batch_topk", planted.d_sae, k, seed, frozen_decoder=True) for seed in seeds]
    soft = train_soft_frozen(free, stream, training, soft_path, data=data, device=device, keep=True)
    fixed = train(frozen, stream, training, frozen_path, data=data, device=device, keep=True)
    return packed(f"{name}_soft", soft) | packed(f"{name}_frozen", fixed)


def shortened(training: Training) -> Training:
    """The same training with fewer steps."""
    return training.model_copy(update={"steps": max(2, round(SHARE * training.steps))})


def packed(name: str, trained: list[Trained]) -> dict[str, Tensor]:
    """Tensors of one experiment, stacked over seeds."""
    found = {key: torch.stack([one.weights[key] for one in trained]) for key in TENSORS}
    found["threshold"] = torch.cat([one.progress.threshold for one in trained])
    found["silent"] = torch.cat([one.progress.silent for one in trained])
    found |= {f"trace_{key}": torch.stack([one.traces[key] for one in trained]) for key in trained[0].traces}
    return {f"{name}.{key}": value.cpu().contiguous() for key, value in found.items()}


if __name__ == "__main__":
    run_step(train_planted)
