"""Step: trains BatchTopK SAEs on the easy and the hard planted world, and pairs with and without AuxK on a wide one.

Out: one safetensors file with decoder, encoder, biases, threshold and traces of every SAE, named
`<experiment>.<tensor>` with a leading seed axis; the experiments are easy, hard, with_auxk and without_auxk.
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import run
from common.saes.recipe import Training
from common.saes.trainer import Trained, train
from replications.sparse_autoencoders.members import recipe
from replications.sparse_autoencoders.settings import Planted, Revival, World
from replications.sparse_autoencoders.worlds import Stream

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


def train_planted(
    *,
    easy: Planted,
    hard: Planted,
    revival: Revival,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    checkpoint: Path,
    out: Path,
) -> None:
    """Trains everything, one SAE per seed and experiment, and writes `out`."""
    kept: dict[str, Tensor] = {}
    paths = {name: checkpoint.with_suffix(f".{name}") for name in ("easy", "hard", "with_auxk", "without_auxk")}
    for name, planted in (("easy", easy), ("hard", hard)):
        kept |= packed(name, fit(planted.world, planted.d_sae, planted.training, seeds, device, paths[name]))
    for name, auxiliary in (("with_auxk", True), ("without_auxk", False)):
        own = fit(easy.world, revival.d_sae, revival.training, seeds, device, paths[name], auxiliary=auxiliary)
        kept |= packed(name, own)
    with atomic(out) as temporary:
        save_file(kept, temporary)
    for path in paths.values():
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


def packed(name: str, trained: list[Trained]) -> dict[str, Tensor]:
    """Tensors of one experiment, stacked over seeds."""
    found = {key: torch.stack([one.weights[key] for one in trained]) for key in TENSORS}
    found["threshold"] = torch.cat([one.progress.threshold for one in trained])
    found["silent"] = torch.cat([one.progress.silent for one in trained])
    found |= {f"trace_{key}": torch.stack([one.traces[key] for one in trained]) for key in trained[0].traces}
    return {f"{name}.{key}": value.cpu().contiguous() for key, value in found.items()}


if __name__ == "__main__":
    run(train_planted)
