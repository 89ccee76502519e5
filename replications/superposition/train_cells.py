"""Step: trains two features in one hidden unit (n = 2, m = 1) over a grid of importance and density.

Out: one safetensors file with all restarts: the grid `relu` and its control `linear`. Paper: section 3, phase diagram.
"""

from pathlib import Path
from typing import Literal

import torch

from common.cli import run
from replications.superposition.axes import spaced
from replications.superposition.grid import Grid, save_grids, train_grid
from replications.superposition.settings import Span

HIDDEN = 1


def train_cells(
    *,
    importances: Span,
    densities: Span,
    restarts: int,
    linear_restarts: int,
    samples: int,
    evaluation_samples: int,
    steps: int,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Trains and writes `out`. Rows of a grid are importances: (1, r)."""
    importance = torch.tensor([[1.0, r] for r in spaced(importances)], dtype=torch.float64)
    kinds: list[tuple[Literal["relu", "linear"], int]] = [("relu", restarts), ("linear", linear_restarts)]
    grids: dict[str, Grid] = {
        activation: train_grid(
            spaced(densities),
            importance,
            HIDDEN,
            activation,
            seeds=seeds,
            restarts=starts,
            samples=samples,
            evaluation_samples=evaluation_samples,
            steps=steps,
            device=device,
        )
        for activation, starts in kinds
        if starts
    }
    save_grids(out, grids)


if __name__ == "__main__":
    run(train_cells)
