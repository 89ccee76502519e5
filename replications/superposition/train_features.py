"""Step: trains n features of falling importance in m hidden units at every density and seed.

Out: one safetensors file with all restarts (`grid.Grid`), one grid per activation. Paper: section 1 (introductory
figure), section 2 (basic results), section 4 (polygons), section 8 (ReLU on the hidden units); importances
I_i = decay^i as in the authors' notebook.
"""

from pathlib import Path

import torch

from common.core.step import run
from replications.superposition.grid import Grid, save_grids, train_grid
from replications.superposition.training_settings import Device, FeatureTraining


def train_features(*, training: FeatureTraining, seeds: list[int], device: Device, out: Path) -> None:
    """Trains and writes `out`."""
    importance = training.importance_decay ** torch.arange(training.n_features, dtype=torch.float64)
    grids: dict[str, Grid] = {}
    for k, activation in enumerate(training.activations):
        starts = training.restarts if k == 0 else training.control_restarts or training.restarts
        grids[activation] = train_grid(
            training.densities,
            importance[None],
            training.n_hidden,
            activation,
            effort=training.model_copy(update={"restarts": starts}),
            seeds=seeds,
            device=device,
        )
    save_grids(out, grids)


if __name__ == "__main__":
    run(train_features)
