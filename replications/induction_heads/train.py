"""Step: trains all seeds of one arm in one batched job and measures them on held-out sequences all along.

Out: one safetensors file (see `arm.py`) with the kept weights, the training loss of every step, and the measurements.
Paper: Olsson et al. 2022, the small models with and without smeared keys; data and sizes differ (METHODS.md).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from common.core.step import Files, RunInfo, run_step
from common.toys.settings import Architecture
from common.toys.training import Job, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.arm import ArmResult, architecture, save_arm
from replications.induction_heads.data import TRACKING, check, one_shot, segments, segments_held_out
from replications.induction_heads.evaluation import track
from replications.induction_heads.settings import Text, TextTraining, TrainArm, Training


class Task(NamedTuple):
    """What the models of an arm are trained on, and what is measured meanwhile."""

    shape: Architecture
    text: Text
    start: Weights
    batch: Callable[[int, int], Int[Tensor, "batch pos"]]
    """training batch of a seed at a step"""
    measure: Callable[[Weights], Weights]


def train_models(
    name: str,
    task: Task,
    seeds: list[int],
    settings: Training | TextTraining,
    *,
    device: str,
) -> ArmResult:
    """Trains one model a seed in one batched job."""
    shape, text, optimisation = task.shape, task.text, settings.optimisation

    def loss(weights: Weights, step: int) -> Tensor:
        tokens = torch.stack([task.batch(seed, step) for seed in seeds]).to(device)
        return token_losses(forward(weights, tokens, shape), tokens).mean((1, 2))

    steps = optimisation.steps
    snapshots_at = sorted({step for step in settings.snapshots if step <= steps} | {steps})
    measure_at = sorted({*range(0, steps, settings.measure_every), *snapshots_at})
    job = Job(
        name=name,
        weights={key: value.to(device) for key, value in task.start.items()},
        loss=loss,
        measure=task.measure,
        measure_at=measure_at,
        snapshots_at=snapshots_at,
        rates=torch.ones(len(seeds), device=device),
        tokens_per_step=len(seeds) * optimisation.batch * text.length,
    )
    return ArmResult(shape, text, seeds, measure_at, snapshots_at, train(job, optimisation))


class TrainFiles(Files):
    models: Path
    """the arm; its name is the name of the file"""


def train_arm(files: TrainFiles, settings: TrainArm, run: RunInfo) -> None:
    """Trains the first `arm.seeds` seeds of the run. UserError for data that cannot repeat."""
    arm, training, text = settings.arm, settings.training, settings.training.text
    check(text)
    shape, seeds = architecture(arm, training.sizes, text), run.seeds[: arm.seeds]
    once = one_shot(text, training.held_out, TRACKING).to(run.device)
    reading = segments_held_out(text, training.held_out, TRACKING).to(run.device)
    task = Task(
        shape=shape,
        text=text,
        start=initial_weights(shape, seeds),
        batch=lambda seed, step: segments(text, training.optimisation.batch, seed, step),
        measure=lambda weights: track(weights, once, reading, shape),
    )
    trained = train_models(files.models.stem, task, seeds, training, device=run.device)
    save_arm(files.models, trained)


if __name__ == "__main__":
    run_step(train_arm)
