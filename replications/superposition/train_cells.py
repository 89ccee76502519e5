"""Step: trains n = m + 1 features in m hidden units over a grid of the last feature's importance and of density.

Out: one safetensors file with all restarts: the grid `relu` and its control `linear`. Paper: section 3, phase diagram.
"""

from pathlib import Path
from typing import Literal

import torch

from common.core.step import Files, RunInfo, run_step
from replications.superposition.cells import spaced
from replications.superposition.grid import Grid, save_grids, train_grid
from replications.superposition.settings import CellTraining


class TrainFiles(Files):
    models: Path


def train_cells(files: TrainFiles, settings: CellTraining, run: RunInfo) -> None:
    """Trains the models of one part. Rows of a grid are importances: (1, ..., 1, r)."""
    ones = [1.0] * settings.n_hidden
    importance = torch.tensor([[*ones, r] for r in spaced(settings.importances)], dtype=torch.float64)
    kinds: list[tuple[Literal["relu", "linear"], int]] = [
        ("relu", settings.restarts),
        ("linear", settings.linear_restarts),
    ]
    grids: dict[str, Grid] = {
        activation: train_grid(
            spaced(settings.densities),
            importance,
            settings.n_hidden,
            activation,
            effort=settings.model_copy(update={"restarts": starts}),
            seeds=run.seeds,
            device=run.device,
        )
        for activation, starts in kinds
        if starts
    }
    save_grids(files.models, grids)


if __name__ == "__main__":
    run_step(train_cells)
