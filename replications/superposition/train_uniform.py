"""Step: trains n equally important features in m hidden units, from dense to sparse, on a stream.

Out: one safetensors file with one grid (`grid.Grid`, one restart) per activation, ReLU and linear (its control).
Paper: section 4, the geometry of uniform superposition; the optimiser is the notebook's AdamW without weight decay,
which would bias norms, with a learning rate that falls to zero.
"""

from pathlib import Path

import torch
from einops import rearrange

from common.core.step import Files, RunInfo, run_step
from common.toys.training import train
from replications.superposition.grid import Grid, save_grids
from replications.superposition.model import Data, evaluate
from replications.superposition.settings import UniformTraining
from replications.superposition.streams import batch, stream_job

HELD_OUT = 5 * 10**6  # step number whose batch no training run draws


class TrainFiles(Files):
    models: Path


def train_uniform(files: TrainFiles, settings: UniformTraining, run: RunInfo) -> None:
    """Trains both activations at all densities."""
    seeds = run.seeds
    grids: dict[str, Grid] = {}
    ones = torch.ones(settings.n_features, dtype=torch.float64)
    shape = {"seed": len(seeds), "density": len(settings.densities), "row": 1, "restart": 1}
    for activation in settings.activations:
        job = stream_job(
            f"uniform features, {activation}",
            settings.densities,
            ones,
            settings.n_hidden,
            activation,
            optimisation=settings.optimisation,
            seeds=seeds,
            device=run.device,
            snapshots_at=[settings.optimisation.steps],
        )
        trained = train(job, settings.optimisation)
        W, b = trained.snapshots["W"][-1].double().cpu(), trained.snapshots["b"][-1].double().cpu()
        densities = torch.tensor(settings.densities, dtype=torch.float64)
        check = batch(densities, settings.n_features, settings.evaluation_samples, 0, HELD_OUT)
        check = Data(check.x.double(), check.weight.double())
        losses = []
        for one_W, one_b in zip(W.chunk(len(seeds)), b.chunk(len(seeds)), strict=True):
            losses.append(evaluate(one_W, one_b, check, ones.expand(len(densities), -1), activation).loss)
        loss = rearrange(torch.stack(losses), "seed density -> seed density 1 1")
        axes = "(seed density row restart)"
        grids[activation] = Grid(
            rearrange(W, f"{axes} hidden feature -> seed density row restart hidden feature", **shape),
            rearrange(b, f"{axes} feature -> seed density row restart feature", **shape),
            loss,
            torch.zeros_like(loss),
            densities,
            ones[None],
        )
    save_grids(files.models, grids)


if __name__ == "__main__":
    run_step(train_uniform)
