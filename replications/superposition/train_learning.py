"""Step: two training runs whose course matters, with snapshots of the weights.

`levels` (section 5, discrete energy level jumps): equally important features at a density where all end as digons,
ReLU and linear (control). `geometry` (section 5, learning as geometric transformations): two sets of three correlated
features in three dimensions, and independent features (control); weights start small. Both descend with Adam at a
constant rate on one fixed sample, so that whatever jumps is the model and not the data.

Out: one safetensors file, `<run>.W`, `<run>.b` [snapshot seed copy ...] and `<run>.loss` [snapshot seed copy] for the
runs `levels.relu`, `levels.linear`, `geometry.correlated` and `geometry.independent`.
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
from replications.superposition.model import Activation, Data, evaluate, sample, sample_sets, stack
from replications.superposition.streams import START, written_loss
from replications.superposition.training import initial
from replications.superposition.training_settings import CourseTraining, Device, LevelTraining

SMALL = 0.1  # factor on the starting weights of `geometry`


def train_learning(
    *, levels: LevelTraining, geometry: CourseTraining, seeds: list[int], device: Device, out: Path
) -> None:
    """Trains and writes `out`."""
    tensors: dict[str, Tensor] = {}
    for activation in ("relu", "linear"):
        data = [sample(levels.density, levels.n_features, levels.samples, seed) for seed in seeds]
        shape = (levels.n_hidden, levels.n_features)
        found = course(data, shape, activation, levels, seeds, device, scale=1.0)
        tensors |= {f"levels.{activation}.{name}": value for name, value in found.items()}
    for kind in ("correlated", "independent"):
        data = [
            sample_sets(geometry.density, 2, 3, geometry.samples, seed, "correlated")
            if kind == "correlated"
            else sample(geometry.density, 6, geometry.samples, seed)
            for seed in seeds
        ]
        found = course(data, (3, 6), "relu", geometry, seeds, device, scale=SMALL)
        tensors |= {f"geometry.{kind}.{name}": value for name, value in found.items()}
    with atomic(out) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)


def course(
    data: list[Data],
    shape: tuple[int, int],
    activation: Activation,
    training: CourseTraining,
    seeds: list[int],
    device: str,
    *,
    scale: float,
) -> dict[str, Float[Tensor, "snapshot seed copy *rest"]]:
    """Weights and training loss at evenly spaced steps; one data set per seed, `copies` starts each."""
    joined = stack(data)
    points = Data(joined.x.float().to(device), joined.weight.float().to(device))
    starts = [initial(training.copies, *shape, torch.Generator().manual_seed(START + seed)) for seed in seeds]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(W), shape[1], device=device)

    def loss(weights: dict[str, Tensor], step: int) -> Float[Tensor, " instance"]:
        return written_loss(weights, points, importance, activation)

    steps = training.optimisation.steps
    at = sorted({round(k * steps / training.snapshots) for k in range(training.snapshots + 1)})
    rates = torch.ones(len(W), device=device)
    job = Job(
        f"course of {shape[1]} features, {activation}, {len(at)} snapshots, first point {float(points.x.sum()):.6g}",
        {"W": scale * W, "b": b},
        loss,
        lambda weights: {},
        [],
        at,
        rates,
        training.samples,
    )
    found = train(job, training.optimisation)
    losses = [
        evaluate(one_W, one_b, points, importance, activation).loss
        for one_W, one_b in zip(found.snapshots["W"], found.snapshots["b"], strict=True)
    ]
    pattern, copies = "snapshot (seed copy) ... -> snapshot seed copy ...", training.copies
    return {
        "W": rearrange(found.snapshots["W"], pattern, copy=copies),
        "b": rearrange(found.snapshots["b"], pattern, copy=copies),
        "loss": rearrange(torch.stack(losses), pattern, copy=copies),
    }


if __name__ == "__main__":
    run(train_learning)
