"""Step: trains models that compute the absolute value of many features in few hidden units (section 8).

Every seed, density and restart is one instance of a batched job on an endless stream. At the judged density two
controls are trained, too: linear hidden units; and input weights that stay random codes, with output weights and biases
learned. Out: one safetensors file, `<arm>.{W1,W2,b}` [seed density restart ...] and `<arm>.loss` [seed density
restart], the loss over that of the best monosemantic solution, on held-out points that all restarts of a seed and
density share: of points of their own the luckiest would win. Also `<arm>.densities`. Arms: relu, linear, codes.
"""

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job, train
from replications.superposition.absolute import (
    Hidden,
    Weights,
    absolute_loss,
    monosemantic_loss,
    random_codes,
    start_weights,
)
from replications.superposition.model import Data, stack
from replications.superposition.settings import Absolute, AbsoluteTraining
from replications.superposition.streams import batch

HELD_OUT = 9_000_000  # a step that training does not reach


class TrainFiles(Files):
    models: Path


def train_absolute(files: TrainFiles, settings: Absolute, run: RunInfo) -> None:
    """Trains the models of all densities and their controls."""
    training, judged = settings.training, [settings.judged_density]
    tensors = train_arm("relu", training.densities, training.restarts, training, run)
    tensors |= train_arm("linear", judged, training.restarts, training, run)
    tensors |= train_arm("codes", judged, training.random_restarts, training, run)
    with atomic(files.models) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)


def train_arm(
    arm: Literal["relu", "linear", "codes"],
    densities: list[float],
    restarts: int,
    training: AbsoluteTraining,
    run: RunInfo,
) -> dict[str, Tensor]:
    """What the file holds for one arm."""
    n, m, optimisation, device = training.n_features, training.n_hidden, training.optimisation, run.device
    hidden: Hidden = "linear" if arm == "linear" else "relu"
    importance = (training.importance_decay ** torch.arange(n)).to(device)
    at = torch.tensor(densities, dtype=torch.float64).repeat_interleave(restarts)
    starts = [start_weights(len(at), m, n, training.start_scale, seed) for seed in run.seeds]
    weights = {name: torch.cat([start[name] for start in starts]).to(device) for name in starts[0]}
    fixed: Weights = {}
    if arm == "codes":
        del weights["W1"]
        codes = torch.cat([random_codes(len(at), m, n, seed) for seed in run.seeds]).to(device)
        fixed["W1"] = codes
        weights["W2"] = (2 * codes / codes.abs().sum(1, keepdim=True).clamp(min=1)).abs().mT.contiguous()

    def drawn(size: int, seed: int, step: int) -> Data:
        return batch(at, n, size, seed, step, signed=True, device=device)

    def loss(learned: Weights, step: int) -> Tensor:
        data = stack([drawn(optimisation.batch, seed, step) for seed in run.seeds])
        return absolute_loss(fixed | learned, data, importance, hidden)

    job = Job(
        name=f"absolute value, {arm}, {n} features, {densities}, {run.seeds}",
        weights=weights,
        loss=loss,
        measure=lambda learned: {},
        measure_at=[],
        snapshots_at=[optimisation.steps],
        rates=torch.ones(len(at) * len(run.seeds), device=device),
        tokens_per_step=optimisation.batch,
    )
    last = fixed | {name: value[-1] for name, value in train(job, optimisation).snapshots.items()}
    held_out = []
    for k, seed in enumerate(run.seeds):
        every = batch(at[::restarts], n, training.evaluation_samples, seed, HELD_OUT, signed=True, device=device)
        for d in range(len(densities)):  # one after the other: all at once would fill a GPU
            first = k * len(at) + d * restarts
            own = {name: value[first : first + restarts] for name, value in last.items()}
            shared = Data(*(one[d : d + 1].expand(restarts, *one.shape[1:]) for one in every))
            held_out.append(absolute_loss(own, shared, importance, hidden))
    reference = monosemantic_loss(at.float().to(device), importance, m).repeat(len(run.seeds))
    last["loss"] = torch.cat(held_out).detach() / reference
    axes = {"seed": len(run.seeds), "density": len(densities)}
    split = {
        f"{arm}.{name}": rearrange(value, "(seed density restart) ... -> seed density restart ...", **axes)
        for name, value in last.items()
    }
    return split | {f"{arm}.densities": torch.tensor(densities, dtype=torch.float64)}


if __name__ == "__main__":
    run_step(train_absolute)
