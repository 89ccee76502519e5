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
from common.core.step import run
from common.toys.training import Job, train
from replications.superposition.absolute import Hidden, Weights, absolute_loss, dropped, starts
from replications.superposition.model import Data, stack
from replications.superposition.streams import batch
from replications.superposition.training_settings import AbsoluteTraining, Device, MotifTraining

HELD_OUT = 9_000_000  # a step that training does not reach


def train_absolute(
    *, training: AbsoluteTraining, motif: MotifTraining, seeds: list[int], device: Device, out: Path
) -> None:
    """Trains and writes `out`."""
    importance = training.importance_decay ** torch.arange(training.n_features)
    sparser = training.densities, [density**0.5 for density in training.densities]
    control = [training.control_density], [training.control_density**0.5]
    small = [motif.density] * motif.restarts, [1.0] * motif.restarts
    found = trained("relu", *sparser, importance, training, seeds, device)
    found |= trained("linear", *control, importance, training, seeds, device)
    copies = trained("relu", *small, torch.ones(motif.n_features), motif, seeds, device)
    found |= {name.replace("relu.", "motif."): value for name, value in copies.items()}
    with atomic(out) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in found.items()}, temporary)


def trained(
    hidden: Hidden,
    densities: list[float],
    slower: list[float],
    importance: Float[Tensor, " feature"],
    training: AbsoluteTraining | MotifTraining,
    seeds: list[int],
    device: str,
) -> dict[str, Tensor]:
    """What the file holds for one kind of hidden units. `slower` multiplies the learning rate of each density."""
    at = torch.tensor(densities, dtype=torch.float64)
    n, m, optimisation = training.n_features, training.n_hidden, training.optimisation
    importance = importance.to(device)

    def drawn(size: int, step: int) -> Data:
        return stack([batch(at, n, size, seed, step, signed=True, device=device) for seed in seeds])

    def loss(weights: Weights, step: int) -> Tensor:
        return absolute_loss(weights, drawn(optimisation.batch, step), importance, hidden)

    each = [starts(len(densities), m, n, seed) for seed in seeds]
    weights = {name: torch.cat([one[name] for one in each]).to(device) for name in each[0]}
    rates = torch.tensor(slower, device=device).repeat(len(seeds))
    job = Job(
        f"absolute value, {hidden}, {n} features, {densities}, {seeds}",
        weights,
        loss,
        lambda weights: {},
        [],
        [optimisation.steps],
        rates,
        optimisation.batch,
    )
    last = {name: value[-1] for name, value in train(job, optimisation).snapshots.items()}
    with torch.no_grad():
        held_out = absolute_loss(last, drawn(training.evaluation_samples, HELD_OUT), importance, hidden)
    last["loss"] = held_out / dropped(at.float(), importance.cpu()).repeat(len(seeds)).to(device)
    split = {
        f"{hidden}.{name}": rearrange(value, "(seed density) ... -> seed density ...", seed=len(seeds))
        for name, value in last.items()
    }
    return split | {f"{hidden}.densities": at}


if __name__ == "__main__":
    run(train_absolute)
