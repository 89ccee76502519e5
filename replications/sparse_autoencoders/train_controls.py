"""Step: trains dictionaries on the planted worlds whose rows may not leave, or hardly leave, their random start.

The baselines of Korznikov et al. 2026 where the truth is known: a frozen decoder, and a soft-frozen one
(`soft_frozen`). Worlds, samples, widths and seeds are those of `train_planted`, but they get a seventh of its steps:
what they explain is a lower bound, and what they recover is bounded by where their rows may go.

Out: one safetensors file like that of `train_planted`, with the experiments `easy_soft`, `easy_frozen`, `hard_soft` and
`hard_frozen`.
"""

from pathlib import Path
from typing import Literal

from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import run
from common.saes.recipe import Training
from common.saes.trainer import train
from replications.sparse_autoencoders.members import recipe
from replications.sparse_autoencoders.settings import Planted
from replications.sparse_autoencoders.soft_frozen import train_soft_frozen
from replications.sparse_autoencoders.train_planted import packed
from replications.sparse_autoencoders.worlds import Stream

SHARE = 0.15  # of the steps of `train_planted`


def train_controls(
    *, easy: Planted, hard: Planted, seeds: list[int], device: Literal["cpu", "cuda"], checkpoint: Path, out: Path
) -> None:
    """Trains everything, one SAE per seed, world and kind, and writes `out`."""
    kept: dict[str, Tensor] = {}
    left: list[Path] = []
    for name, planted in (("easy", easy), ("hard", hard)):
        world, training = planted.world, shortened(planted.training)
        stream = Stream(world, seeds, training.batch, device)
        free = [recipe("batch_topk", planted.d_sae, world.active, seed) for seed in seeds]
        frozen = [recipe("batch_topk", planted.d_sae, world.active, seed, frozen_decoder=True) for seed in seeds]
        data = world.model_dump_json()
        paths = [checkpoint.with_suffix(f".{name}.{kind}") for kind in ("soft", "frozen")]
        soft = train_soft_frozen(free, stream, training, paths[0], data=data, device=device, keep=True)
        found = train(frozen, stream, training, paths[1], data=data, device=device, keep=True)
        left += paths
        kept |= packed(f"{name}_soft", soft) | packed(f"{name}_frozen", found)
    with atomic(out) as temporary:
        save_file(kept, temporary)
    for path in left:
        path.unlink(missing_ok=True)


def shortened(training: Training) -> Training:
    """The same training with fewer steps."""
    return training.model_copy(update={"steps": max(2, round(SHARE * training.steps))})


if __name__ == "__main__":
    run(train_controls)
