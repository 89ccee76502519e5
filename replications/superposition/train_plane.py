"""Step: trains the models of the introductory figure, n features in a plane (m = 2), at every density and seed.

Out: one safetensors file with all restarts (`grid.Grid`), one grid per activation. Paper: section 1, the introductory
figure; importances I_i = decay^i as in the authors' notebook.
"""

from pathlib import Path
from typing import Literal

import torch

from common.cli import run
from replications.superposition.grid import Grid, save_grids, train_grid

HIDDEN = 2


def train_plane(
    *,
    n_features: int,
    importance_decay: float,
    densities: list[float],
    activations: list[Literal["relu", "linear"]],
    restarts: int,
    samples: int,
    evaluation_samples: int,
    steps: int,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Trains and writes `out`."""
    importance = importance_decay ** torch.arange(n_features, dtype=torch.float64)
    grids: dict[str, Grid] = {
        activation: train_grid(
            densities,
            importance[None],
            HIDDEN,
            activation,
            seeds=seeds,
            restarts=restarts,
            samples=samples,
            evaluation_samples=evaluation_samples,
            steps=steps,
            device=device,
        )
        for activation in activations
    }
    save_grids(out, grids)


if __name__ == "__main__":
    run(train_plane)
