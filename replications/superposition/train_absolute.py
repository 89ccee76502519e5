"""Step: trains models that compute the absolute value of many features in few hidden units (section 8).

Every seed, density and restart is one instance of a batched job on an endless stream. The control with linear hidden
units is trained at the judged density. Out: one safetensors file, `<hidden>.{W1,W2,b}` [seed density restart ...] and
`<hidden>.loss` [seed density restart], the loss on held-out points over that of the best monosemantic solution. Also
`<hidden>.densities`.
"""

from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job, train
from replications.superposition.absolute import Hidden, Weights, absolute_loss, monosemantic_loss, start_weights
from replications.superposition.model import Data, stack
from replications.superposition.settings import Absolute, AbsoluteTraining
from replications.superposition.streams import batch

HELD_OUT = 9_000_000  # a step that training does not reach


class TrainFiles(Files):
    models: Path


def train_absolute(files: TrainFiles, settings: Absolute, run: RunInfo) -> None:
    """Trains the models of all densities and their control."""
    training = settings.training
    tensors = train_arm("relu", training.densities, training, run)
    tensors |= train_arm("linear", [settings.judged_density], training, run)
    with atomic(files.models) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)


def train_arm(hidden: Hidden, densities: list[float], training: AbsoluteTraining, run: RunInfo) -> dict[str, Tensor]:
    """What the file holds for one kind of hidden units."""
    n, m, restarts, optimisation = training.n_features, training.n_hidden, training.restarts, training.optimisation
    importance = (training.importance_decay ** torch.arange(n)).to(run.device)
    at = torch.tensor(densities, dtype=torch.float64).repeat_interleave(restarts)

    def drawn(size: int, seed: int, step: int) -> Data:
        return batch(at, n, size, seed, step, signed=True, device=run.device)

    def loss(weights: Weights, step: int) -> Tensor:
        data = stack([drawn(optimisation.batch, seed, step) for seed in run.seeds])
        return absolute_loss(weights, data, importance, hidden)

    starts = [start_weights(len(at), m, n, training.start_scale, seed) for seed in run.seeds]
    job = Job(
        name=f"absolute value, {hidden}, {n} features, {densities}, {run.seeds}",
        weights={name: torch.cat([start[name] for start in starts]).to(run.device) for name in starts[0]},
        loss=loss,
        measure=lambda weights: {},
        measure_at=[],
        snapshots_at=[optimisation.steps],
        rates=torch.ones(len(at) * len(run.seeds), device=run.device),
        tokens_per_step=optimisation.batch,
    )
    last = {name: value[-1] for name, value in train(job, optimisation).snapshots.items()}
    held_out = []
    for k, seed in enumerate(run.seeds):  # one after the other: all at once would fill a GPU
        own = {name: value[k * len(at) : (k + 1) * len(at)] for name, value in last.items()}
        held_out.append(absolute_loss(own, drawn(training.evaluation_samples, seed, HELD_OUT), importance, hidden))
    reference = monosemantic_loss(at.float().to(run.device), importance, m).repeat(len(run.seeds))
    last["loss"] = torch.cat(held_out).detach() / reference
    axes = {"seed": len(run.seeds), "density": len(densities)}
    split = {
        f"{hidden}.{name}": rearrange(value, "(seed density restart) ... -> seed density restart ...", **axes)
        for name, value in last.items()
    }
    return split | {f"{hidden}.densities": torch.tensor(densities, dtype=torch.float64)}


if __name__ == "__main__":
    run_step(train_absolute)
