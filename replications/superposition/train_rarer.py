"""Step: trains five equally important features in a plane, one of which is rarer than the others.

Out: one safetensors file with one grid whose `densities` axis holds the ratio of the last feature's density to that of
the others. Paper: section 4, non-uniform superposition.
"""

from pathlib import Path

import torch

from common.core.step import run
from replications.superposition.grid import save_grids, train_grid
from replications.superposition.model import Data, sample
from replications.superposition.training_settings import Device, RarerTraining

HIDDEN = 2


def train_rarer(*, training: RarerTraining, seeds: list[int], device: Device, out: Path) -> None:
    """Trains and writes `out`."""

    def draw(ratio: float, n_features: int, n_samples: int, seed: int) -> Data:
        densities = torch.full((n_features,), training.density, dtype=torch.float64)
        densities[-1] *= ratio
        return sample(densities, n_features, n_samples, seed)

    ones = torch.ones(1, training.n_features, dtype=torch.float64)
    grid = train_grid(training.ratios, ones, HIDDEN, "relu", effort=training, seeds=seeds, device=device, draw=draw)
    save_grids(out, {"relu": grid})


if __name__ == "__main__":
    run(train_rarer)
