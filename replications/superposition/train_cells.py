"""Step: trains n = m + 1 features in m hidden units over a grid of the last feature's importance and of density.

Out: one safetensors file with all restarts: the grid `relu` and its control `linear`. Paper: section 3, phase diagram.
"""

from pathlib import Path
from typing import Literal

import torch

from common.core.step import run
from replications.superposition.axes import spaced
from replications.superposition.grid import Grid, save_grids, train_grid
from replications.superposition.training_settings import CellTraining, Device


def train_cells(*, training: CellTraining, seeds: list[int], device: Device, out: Path) -> None:
    """Trains and writes `out`. Rows of a grid are importances: (1, ..., 1, r)."""
    ones = [1.0] * training.n_hidden
    importance = torch.tensor([[*ones, r] for r in spaced(training.importances)], dtype=torch.float64)
    kinds: list[tuple[Literal["relu", "linear"], int]] = [
        ("relu", training.restarts),
        ("linear", training.linear_restarts),
    ]
    grids: dict[str, Grid] = {
        activation: train_grid(
            spaced(training.densities),
            importance,
            training.n_hidden,
            activation,
            effort=training.model_copy(update={"restarts": starts}),
            seeds=seeds,
            device=device,
        )
        for activation, starts in kinds
        if starts
    }
    save_grids(out, grids)


if __name__ == "__main__":
    run(train_cells)
