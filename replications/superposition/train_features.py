"""Step: trains n features of falling importance in m hidden units at every density and seed.

Out: one safetensors file with all restarts (`grid.Grid`), one grid per activation. Paper: section 1 (introductory
figure), section 2 (basic results), section 4 (polygons), section 8 (ReLU on the hidden units); importances
I_i = decay^i as in the authors' notebook.
"""

from pathlib import Path

import torch

from common.core.step import Files, RunInfo, run_step
from replications.superposition.grid import Grid, save_grids, train_grid
from replications.superposition.settings import FeatureTraining


class TrainFiles(Files):
    models: Path


def train_features(files: TrainFiles, settings: FeatureTraining, run: RunInfo) -> None:
    """Trains the models of one part."""
    importance = settings.importance_decay ** torch.arange(settings.n_features, dtype=torch.float64)
    grids: dict[str, Grid] = {}
    for k, activation in enumerate(settings.activations):
        starts = settings.restarts if k == 0 else settings.control_restarts or settings.restarts
        grids[activation] = train_grid(
            settings.densities,
            importance[None],
            settings.n_hidden,
            activation,
            effort=settings.model_copy(update={"restarts": starts}),
            seeds=run.seeds,
            device=run.device,
        )
    save_grids(files.models, grids)


if __name__ == "__main__":
    run_step(train_features)
