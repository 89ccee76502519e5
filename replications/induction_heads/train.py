"""Step: trains all seeds of one arm in one batched job and measures them on held-out sequences all along.

Out: one safetensors file (see `arm.py`) with the kept weights, the training loss of every step, and the measurements.
Paper: Olsson et al. 2022, the small models with and without smeared keys; data and sizes differ (README).
"""

from pathlib import Path
from typing import Literal

import torch

from common.core.step import run
from common.toys.settings import Optimisation
from common.toys.training import Job, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.arm import ArmResult, architecture, save_arm
from replications.induction_heads.arm_settings import Arm, Sizes, Text
from replications.induction_heads.data import TRACKING, check, one_shot, periodic, periodic_held_out
from replications.induction_heads.evaluation import track


def train_arm(
    *,
    name: str,
    arm: Arm,
    sizes: Sizes,
    text: Text,
    optimisation: Optimisation,
    held_out: int,
    measure_every: int,
    snapshots: list[int],
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Trains the first `arm.seeds` of `seeds` and writes `out`. UserError for data that cannot repeat."""
    check(text)
    shape = architecture(arm, sizes, text)
    chosen = seeds[: arm.seeds]
    once, cyclic = (make(text, held_out, TRACKING).to(device) for make in (one_shot, periodic_held_out))

    def loss(weights: Weights, step: int) -> torch.Tensor:
        tokens = torch.stack([periodic(text, optimisation.batch, seed, step) for seed in chosen]).to(device)
        return token_losses(forward(weights, tokens, shape), tokens).mean((1, 2))

    steps = round(arm.duration * optimisation.steps)
    measure_at = sorted({*range(0, steps, measure_every), steps})
    kept = sorted({step for step in snapshots if step <= steps} | {steps})
    job = Job(
        name=name,
        weights={key: value.to(device) for key, value in initial_weights(shape, chosen).items()},
        loss=loss,
        measure=lambda weights: track(weights, once, cyclic, shape),
        measure_at=measure_at,
        snapshots_at=kept,
        rates=torch.full((len(chosen),), arm.rate, device=device),
        tokens_per_step=len(chosen) * optimisation.batch * text.length,
    )
    trained = train(job, optimisation.model_copy(update={"steps": steps}))
    save_arm(out, ArmResult(shape, text, chosen, measure_at, kept, trained))


if __name__ == "__main__":
    run(train_arm)
