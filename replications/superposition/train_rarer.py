"""Step: trains five equally important features in a plane, one of which is rarer than the others.

Out: one safetensors file with one grid whose `densities` axis holds the ratio of the last feature's density to that of
the others. Paper: section 4, non-uniform superposition.
"""

from pathlib import Path

import torch

from common.core.step import Files, RunInfo, run_step
from replications.superposition.grid import save_grids, train_grid
from replications.superposition.model import Data, sample
from replications.superposition.settings import RarerTraining

HIDDEN = 2


class TrainFiles(Files):
    models: Path


def train_rarer(files: TrainFiles, settings: RarerTraining, run: RunInfo) -> None:
    """Trains all ratios of densities."""

    def draw(ratio: float, n_features: int, n_samples: int, seed: int) -> Data:
        densities = torch.full((n_features,), settings.density, dtype=torch.float64)
        densities[-1] *= ratio
        return sample(densities, n_features, n_samples, seed)

    ones = torch.ones(1, settings.n_features, dtype=torch.float64)
    grid = train_grid(
        settings.ratios, ones, HIDDEN, "relu", effort=settings, seeds=run.seeds, device=run.device, draw=draw
    )
    save_grids(files.models, {"relu": grid})


if __name__ == "__main__":
    run_step(train_rarer)
