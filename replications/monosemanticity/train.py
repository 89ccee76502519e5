"""Step: trains the one-layer transformers, all seeds in one batched job.

Bricken et al. 2023, section "Problem setup": a one-layer transformer with a ReLU MLP. Deviations: far fewer tokens, a
small vocabulary, rotary positions. Out: the weights, and the held-out loss by step beside that of counts
(`ngrams.py`).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.bpe import stretches
from common.toys.training import Job
from common.toys.training import train as optimise
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.monosemanticity.model import Models, architecture, save_models
from replications.monosemanticity.settings import Train

TRACKED = 64  # held-out windows of the curve


class TrainFiles(Files):
    tokens: Path
    models: Path
    curves: Path
    """held-out loss by step"""


def train(files: TrainFiles, settings: Train, run: RunInfo) -> None:
    """Trains one model for each seed."""
    text, model, device = settings.text, settings.model, run.device
    stored = load_file(files.tokens)
    stream, tracked = stored["train"].long().to(device), stored["held_out"][:TRACKED].long().to(device)
    shape, optimisation = architecture(model, text), model.optimisation

    def loss(weights: Weights, step: int) -> Tensor:
        batch = torch.stack([stretches(stream, optimisation.batch, text.length, seed, step) for seed in run.seeds])
        return token_losses(forward(weights, batch, shape), batch).mean((1, 2))

    def measure(weights: Weights) -> Weights:
        windows = tracked.expand(len(run.seeds), -1, -1)
        return {"held_out": token_losses(forward(weights, windows, shape), windows)[:, :, 1:].mean((1, 2))}

    at = sorted({*range(0, optimisation.steps, model.measure_every), optimisation.steps})
    trained = optimise(
        Job(
            name="one-layer models",
            weights={name: value.to(device) for name, value in initial_weights(shape, run.seeds).items()},
            loss=loss,
            measure=measure,
            measure_at=at,
            snapshots_at=[optimisation.steps],
            rates=torch.ones(len(run.seeds), device=device),
            tokens_per_step=len(run.seeds) * optimisation.batch * text.length,
        ),
        optimisation,
    )
    save_models(files.models, Models(shape, run.seeds, {name: value[-1] for name, value in trained.snapshots.items()}))
    rows = [
        {"seed": seed, "step": step, "tokens": step * optimisation.batch * text.length, "loss": float(value)}
        for place, seed in enumerate(run.seeds)
        for step, value in zip(at, trained.measured["held_out"][:, place], strict=True)
    ]
    write_table(files.curves, rows)


if __name__ == "__main__":
    run_step(train)
