"""Step: trains two-layer models whose first-layer attention is held fixed all along, and compares when they change.

Singh et al. 2024 (arXiv:2404.07129) clamp parts of the induction circuit through training to see which one the phase
change waits for. Here all heads of the first layer attend to the previous token from the start (`previous`), so that
only the match is left to learn. Or they attend to the present token (`present`), so that nothing can move forward by
one. All else is as in the arm of two layers: same seeds, batches, steps. Deviation: all heads of the layer are clamped,
not one.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.toys.settings import Architecture
from common.toys.training import Job, train
from common.toys.transformer import Ablation, Weights, forward, initial_weights, token_losses
from replications.induction_heads.arm import architecture, load_arm
from replications.induction_heads.curves import LAST, first_crossing
from replications.induction_heads.data import TRACKING, check, one_shot, segments
from replications.induction_heads.evaluation import gain, losses_on
from replications.induction_heads.settings import TrainArm

Gains = Float[np.ndarray, "seed measurement"]
BACK = {"previous": 1, "present": 0}
"""How many tokens back the heads of the first layer attend."""


class TrainClampedFiles(Files):
    plain: Path
    """the same models with nothing clamped"""
    metrics: Path
    curves: Path
    """gain of every seed along training, by clamp"""


def train_clamped(files: TrainClampedFiles, settings: TrainArm, run: RunInfo) -> None:
    """Writes metrics and curves. UserError for data that cannot repeat."""
    check(settings.training.text)
    plain = load_arm(files.plain)
    seeds = run.seeds[: settings.arm.seeds]
    gains = {"plain": plain.measured("gain").double().numpy().T[: len(seeds)]}
    for name, back in BACK.items():
        gains[name] = train_one(name, back, seeds, plain.measure_at, settings, run.device)
    write_metrics(files.metrics, compare(np.asarray(plain.measure_at, dtype=np.float64), gains))
    rows = [
        {"clamp": name, "seed": seed, "step": step, "gain": values[k, i]}
        for name, values in gains.items()
        for k, seed in enumerate(seeds)
        for i, step in enumerate(plain.measure_at)
    ]
    write_table(files.curves, rows)


def train_one(name: str, back: int, seeds: list[int], measure_at: list[int], settings: TrainArm, device: str) -> Gains:
    """In-context gain along training with the first layer attending `back` tokens back."""
    training = settings.training
    shape = architecture(settings.arm, training.sizes, training.text)
    optimisation = training.optimisation
    once = one_shot(training.text, training.held_out, TRACKING).to(device)

    def loss(weights: Weights, step: int) -> Tensor:
        tokens = torch.stack([segments(training.text, optimisation.batch, seed, step) for seed in seeds]).to(device)
        return token_losses(forward(weights, tokens, shape, ablation=clamp(weights, shape, back)), tokens).mean((1, 2))

    job = Job(
        name=f"first layer clamped to the {name} token",
        weights={key: value.to(device) for key, value in initial_weights(shape, seeds).items()},
        loss=loss,
        measure=lambda weights: {
            "gain": gain(losses_on(weights, once.tokens, shape, ablation=clamp(weights, shape, back)), once)
        },
        measure_at=measure_at,
        snapshots_at=[optimisation.steps],
        rates=torch.ones(len(seeds), device=device),
        tokens_per_step=len(seeds) * optimisation.batch * training.text.length,
    )
    found: Gains = train(job, optimisation).measured["gain"].double().cpu().numpy().T
    return found


def clamp(weights: Weights, shape: Architecture, back: int) -> Ablation:
    """Every head of the first layer attends `back` tokens back; the first tokens attend to position 0."""
    at = torch.arange(shape.n_ctx)
    pattern = torch.zeros(shape.n_ctx, shape.n_ctx)
    pattern[at, (at - back).clamp(min=0)] = 1
    embedding = weights["embed.W_E"]
    keep = torch.ones(len(embedding), shape.n_layers, shape.n_heads, device=embedding.device)
    return Ablation(keep, {"blocks.0.attn.hook_pattern": pattern.to(embedding.device)})


def compare(steps: Float[np.ndarray, " step"], gains: dict[str, Gains]) -> dict[str, Metric]:
    """Gain at the end, and the step of half of the plain models' final gain, over that of plain models."""
    ends = {name: values[:, -LAST:].mean(1) for name, values in gains.items()}
    half = float(ends["plain"].mean()) / 2
    at = {name: np.array([first_crossing(steps, one, half) for one in values]) for name, values in gains.items()}
    others = (at["plain"].sum() - at["plain"]) / (len(at["plain"]) - 1)
    return {
        "gain_present": over_seeds(
            ends["present"].tolist(), unit="nats", controls={"plain": ends["plain"].tolist()},
            formula="in-context gain at the end with the first layer attending to the present token",
        ),
        "gain_previous": over_seeds(
            ends["previous"].tolist(), unit="nats", controls={"present": ends["present"].tolist()},
            formula="in-context gain at the end with the first layer attending to the previous token",
        ),
        "clamped_over_plain": over_seeds(
            (at["previous"] / others).tolist(), unit="1", controls={"plain": (at["plain"] / others).tolist()},
            formula="step of half the plain models' final gain with the first layer attending to the previous token, "
            "over the mean of that step for plain models of the other seeds; the last step if never reached",
        ),
    }  # fmt: skip


if __name__ == "__main__":
    run_step(train_clamped)
