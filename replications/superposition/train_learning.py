"""Step: training runs whose course matters, with snapshots of the weights (section 5).

`energy_levels` (discrete energy level jumps): equally important features at a density where all end as digons, in ReLU
and linear models (control). `octahedron` (learning as geometric transformations): two sets of three correlated features
in three dimensions, and independent features (control); weights start small. All descend with Adam at a constant rate
on one fixed sample, so that whatever jumps is the model and not the data.

Out: one safetensors file, `<arm>.W`, `<arm>.b` [snapshot seed copy ...] and `<arm>.loss` [snapshot seed copy].
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
from replications.superposition.model import Activation, Data, evaluate, sample, sample_sets, stack
from replications.superposition.settings import CourseTraining
from replications.superposition.streams import START, written_loss
from replications.superposition.training import initial

SETS = 2


class TrainFiles(Files):
    models: Path


def train_learning(files: TrainFiles, settings: CourseTraining, run: RunInfo) -> None:
    """Trains all arms of one part."""
    tensors: dict[str, Tensor] = {}
    for arm in settings.arms:
        n_features, density, size = settings.n_features, settings.density, settings.samples
        data = [
            sample_sets(density, SETS, n_features // SETS, size, seed, "correlated")
            if arm == "correlated"
            else sample(density, n_features, size, seed)
            for seed in run.seeds
        ]
        course = follow(data, "linear" if arm == "linear" else "relu", settings, run)
        tensors |= {f"{arm}.{name}": value.contiguous().cpu() for name, value in course.items()}
    with atomic(files.models) as temporary:
        save_file(tensors, temporary)


def follow(
    data: list[Data], activation: Activation, settings: CourseTraining, run: RunInfo
) -> dict[str, Float[Tensor, "snapshot seed copy *rest"]]:
    """Weights and training loss at evenly spaced steps; one data set per seed, `copies` starts each."""
    joined, device, copies = stack(data), run.device, settings.copies
    points = Data(joined.x.float().to(device), joined.weight.float().to(device))
    shape = (settings.n_hidden, settings.n_features)
    starts = [initial(copies, *shape, torch.Generator().manual_seed(START + seed)) for seed in run.seeds]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(W), shape[1], device=device)

    def loss(weights: dict[str, Tensor], step: int) -> Float[Tensor, " instance"]:
        return written_loss(weights, points, importance, activation)

    steps = settings.optimisation.steps
    at = sorted({round(k * steps / settings.snapshots) for k in range(settings.snapshots + 1)})
    job = Job(
        name=f"{shape[1]} features, {activation}, {len(at)} snapshots, first point {float(points.x.sum()):.6g}",
        weights={"W": settings.start_scale * W, "b": b},
        loss=loss,
        measure=lambda weights: {},
        measure_at=[],
        snapshots_at=at,
        rates=torch.ones(len(W), device=device),
        tokens_per_step=settings.samples,
    )
    trained = train(job, settings.optimisation).snapshots
    losses = [
        evaluate(one_W, one_b, points, importance, activation).loss
        for one_W, one_b in zip(trained["W"], trained["b"], strict=True)
    ]
    pattern = "snapshot (seed copy) ... -> snapshot seed copy ..."
    course = {**trained, "loss": torch.stack(losses)}
    return {name: rearrange(value, pattern, copy=copies) for name, value in course.items()}


if __name__ == "__main__":
    run_step(train_learning)
