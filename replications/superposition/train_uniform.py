"""Step: trains n equally important features in m hidden units, from dense to sparse, on a stream.

Out: one safetensors file with one grid (`grid.Grid`, one restart), `relu`. Paper: section 4, the geometry of uniform
superposition. The optimiser is the notebook's Adam without weight decay, which would bias norms. Its learning rate
falls to zero, without which D_i scatter around the shares of regular arrangements.
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
    """Trains the models of all densities."""
    n, seeds, optimisation = settings.n_features, run.seeds, settings.optimisation
    ones = torch.ones(n, dtype=torch.float64)
    job = stream_job(
        settings.densities,
        ones,
        settings.n_hidden,
        optimisation=optimisation,
        seeds=seeds,
        device=run.device,
        snapshots_at=[optimisation.steps],
    )
    snapshots = train(job, optimisation).snapshots
    W, b = (
        rearrange(snapshots[name][-1].double().cpu(), "(seed density) ... -> seed density 1 1 ...", seed=len(seeds))
        for name in ("W", "b")
    )
    densities = torch.tensor(settings.densities, dtype=torch.float64)
    check = Data(*(one.double() for one in batch(densities, n, settings.evaluation_samples, 0, HELD_OUT)))
    scale = ones.expand(len(densities), -1)
    loss = torch.stack(
        [evaluate(one[:, 0, 0], bias[:, 0, 0], check, scale, "relu").loss for one, bias in zip(W, b, strict=True)]
    )
    loss = rearrange(loss, "seed density -> seed density 1 1")
    save_grids(files.models, {"relu": Grid(W, b, loss, torch.zeros_like(loss), densities, ones[None])})


if __name__ == "__main__":
    run_step(train_uniform)
