"""Step: trains n equally important features in m hidden units, from dense to sparse, on a stream.

Out: one safetensors file with one grid (`grid.Grid`, one restart) per activation, ReLU and linear (its control).
Paper: section 4, the geometry of uniform superposition; the optimiser is the notebook's AdamW without weight decay,
which would bias norms, with a learning rate that falls to zero.
"""

from pathlib import Path

import torch
from einops import rearrange

from common.core.step import run
from common.toys.training import train
from replications.superposition.grid import Grid, save_grids
from replications.superposition.model import Data, evaluate
from replications.superposition.streams import batch, stream_job
from replications.superposition.training_settings import Device, UniformTraining

HELD_OUT = 5 * 10**6  # step number whose batch no training run draws


def train_uniform(*, training: UniformTraining, seeds: list[int], device: Device, out: Path) -> None:
    """Trains and writes `out`."""
    grids: dict[str, Grid] = {}
    ones = torch.ones(training.n_features, dtype=torch.float64)
    shape = {"seed": len(seeds), "density": len(training.densities), "row": 1, "restart": 1}
    for activation in training.activations:
        job = stream_job(
            f"uniform features, {activation}",
            training.densities,
            ones,
            training.n_hidden,
            activation,
            optimisation=training.optimisation,
            seeds=seeds,
            device=device,
            snapshots_at=[training.optimisation.steps],
        )
        found = train(job, training.optimisation)
        W, b = found.snapshots["W"][-1].double().cpu(), found.snapshots["b"][-1].double().cpu()
        at = torch.tensor(training.densities, dtype=torch.float64)
        check = batch(at, training.n_features, training.evaluation_samples, 0, HELD_OUT)
        check = Data(check.x.double(), check.weight.double())
        losses = []
        for one_W, one_b in zip(W.chunk(len(seeds)), b.chunk(len(seeds)), strict=True):
            losses.append(evaluate(one_W, one_b, check, ones.expand(len(at), -1), activation).loss)
        loss = rearrange(torch.stack(losses), "seed density -> seed density 1 1")
        axes = "(seed density row restart)"
        grids[activation] = Grid(
            rearrange(W, f"{axes} hidden feature -> seed density row restart hidden feature", **shape),
            rearrange(b, f"{axes} feature -> seed density row restart feature", **shape),
            loss,
            torch.zeros_like(loss),
            at,
            ones[None],
        )
    save_grids(out, grids)


if __name__ == "__main__":
    run(train_uniform)
