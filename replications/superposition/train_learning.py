"""Step: training runs whose course matters, with snapshots of the weights (section 5).

`energy_levels` (discrete energy level jumps): equally important features at a density where most end as digons, on a
stream. On a small fixed sample no feature reaches a level. `octahedron` (learning as geometric transformations): two
sets of three correlated features in three dimensions, and independent features (control), on one fixed sample. All
start small and descend with Adam at a constant rate.

Out: one safetensors file, `<arm>.W` [snapshot seed copy ...] and `<arm>.loss` [snapshot seed copy], the loss on one
fixed sample.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job, Weights, train
from replications.superposition.model import Data, evaluate, sample, sample_sets, stack
from replications.superposition.settings import CourseTraining
from replications.superposition.streams import START, batch, written_loss
from replications.superposition.training import initial

SETS = 2


class TrainFiles(Files):
    models: Path


def train_learning(files: TrainFiles, settings: CourseTraining, run: RunInfo) -> None:
    """Trains all arms of one part."""
    tensors: dict[str, Tensor] = {}
    for arm in settings.arms:
        n, density, size = settings.n_features, settings.density, settings.samples
        fixed = stack(
            [
                sample_sets(density, SETS, n // SETS, size, seed, "correlated")
                if arm == "correlated"
                else sample(density, n, size, seed)
                for seed in run.seeds
            ]
        )
        fixed = Data(*(one.float().to(run.device) for one in fixed))
        tensors |= {
            f"{arm}.{name}": value.contiguous().cpu()
            for name, value in follow(points_of(arm, fixed, settings, run), fixed, settings, run).items()
        }
    with atomic(files.models) as temporary:
        save_file(tensors, temporary)


def points_of(arm: str, fixed: Data, settings: CourseTraining, run: RunInfo) -> Callable[[int], Data]:
    """What a step trains on: the fixed sample of each seed, or the next batch of its stream."""
    at = torch.tensor([settings.density], dtype=torch.float64)

    def drawn(step: int) -> Data:
        size = settings.optimisation.batch
        return stack([batch(at, settings.n_features, size, seed, step, device=run.device) for seed in run.seeds])

    return drawn if arm == "stream" else lambda step: fixed


def follow(
    points: Callable[[int], Data], fixed: Data, settings: CourseTraining, run: RunInfo
) -> dict[str, Float[Tensor, "snapshot seed copy *rest"]]:
    """Weights, and the loss on the fixed sample, at evenly spaced steps; `copies` starts per seed."""
    device, copies = run.device, settings.copies
    shape = (settings.n_hidden, settings.n_features)
    starts = [initial(copies, *shape, torch.Generator().manual_seed(START + seed)) for seed in run.seeds]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(W), shape[1], device=device)

    def loss(weights: Weights, step: int) -> Float[Tensor, " instance"]:
        return written_loss(weights, points(step), importance)

    steps = settings.optimisation.steps
    at = sorted({round(k * steps / settings.snapshots) for k in range(settings.snapshots + 1)})
    job = Job(
        name=f"{shape[1]} features, {len(at)} snapshots, first point {float(points(0).x.sum()):.6g}",
        weights={"W": settings.start_scale * W, "b": b},
        loss=loss,
        measure=lambda weights: {},
        measure_at=[],
        snapshots_at=at,
        rates=torch.ones(len(W), device=device),
        tokens_per_step=settings.samples,
    )
    course = train(job, settings.optimisation).snapshots
    losses = [evaluate(*one, fixed, importance, "relu").loss for one in zip(course["W"], course["b"], strict=True)]
    pattern = "snapshot (seed copy) ... -> snapshot seed copy ..."
    found = {"W": course["W"], "loss": torch.stack(losses)}
    return {name: rearrange(value, pattern, copy=copies) for name, value in found.items()}


if __name__ == "__main__":
    run_step(train_learning)
