"""Step: trains models that compute the absolute value of many features in few hidden units (section 8).

Every seed and density is one instance of a batched job on an endless stream, with a learning rate that falls as the
root of density: dense models learn one feature after another and need large steps to get to the last ones, sparse ones
rest on few active entries and need small steps. The control with linear hidden units is trained at one density. Small
models whose weights can be read one by one are trained at one density from many starts.
Out: one safetensors file, `<hidden>.{W1,W2,b}` [seed density ...] and `<hidden>.loss` [seed density], the loss on
held-out points over that of a model that always answers 0; `<hidden>.densities`. The small models are `motif.*`, with
starts in place of densities.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job, train
from replications.superposition.absolute import Hidden, Weights, absolute_loss, start_weights, zero_answer_loss
from replications.superposition.model import Data, stack
from replications.superposition.settings import Absolute, AbsoluteTraining, MotifTraining
from replications.superposition.streams import batch

HELD_OUT = 9_000_000  # a step that training does not reach


class TrainFiles(Files):
    models: Path


def train_absolute(files: TrainFiles, settings: Absolute, run: RunInfo) -> None:
    """Trains the models of all densities, their control and the small models."""
    training, motif = settings.training, settings.motif
    importance = training.importance_decay ** torch.arange(training.n_features)
    slower = [density**0.5 for density in training.densities]
    control = training.control_density
    tensors = train_arm("relu", training.densities, slower, importance, training, run)
    tensors |= train_arm("linear", [control], [control**0.5], importance, training, run)
    starts = [motif.density] * motif.restarts, [1.0] * motif.restarts
    small = train_arm("relu", *starts, torch.ones(motif.n_features), motif, run)
    tensors |= {name.replace("relu.", "motif."): value for name, value in small.items()}
    with atomic(files.models) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)


def train_arm(
    hidden: Hidden,
    densities: list[float],
    rates: list[float],
    importance: Float[Tensor, " feature"],
    training: AbsoluteTraining | MotifTraining,
    run: RunInfo,
) -> dict[str, Tensor]:
    """What the file holds for one kind of hidden units. `rates` multiplies the learning rate of each density."""
    at = torch.tensor(densities, dtype=torch.float64)
    n, m, optimisation, seeds = training.n_features, training.n_hidden, training.optimisation, run.seeds
    importance = importance.to(run.device)

    def drawn(size: int, step: int) -> Data:
        return stack([batch(at, n, size, seed, step, signed=True, device=run.device) for seed in seeds])

    def loss(weights: Weights, step: int) -> Tensor:
        return absolute_loss(weights, drawn(optimisation.batch, step), importance, hidden)

    starts = [start_weights(len(densities), m, n, seed) for seed in seeds]
    job = Job(
        name=f"absolute value, {hidden}, {n} features, {densities}, {seeds}",
        weights={name: torch.cat([start[name] for start in starts]).to(run.device) for name in starts[0]},
        loss=loss,
        measure=lambda weights: {},
        measure_at=[],
        snapshots_at=[optimisation.steps],
        rates=torch.tensor(rates, device=run.device).repeat(len(seeds)),
        tokens_per_step=optimisation.batch,
    )
    last = {name: value[-1] for name, value in train(job, optimisation).snapshots.items()}
    with torch.no_grad():
        held_out = absolute_loss(last, drawn(training.evaluation_samples, HELD_OUT), importance, hidden)
    zero_answer = zero_answer_loss(at.float(), importance.cpu()).repeat(len(seeds)).to(run.device)
    last["loss"] = held_out / zero_answer
    split = {
        f"{hidden}.{name}": rearrange(value, "(seed density) ... -> seed density ...", seed=len(seeds))
        for name, value in last.items()
    }
    return split | {f"{hidden}.densities": at}


if __name__ == "__main__":
    run_step(train_absolute)
