"""Step: trains features that occur in sets: correlated, exclusive (anti-correlated), or independent as the control.

Three arrangements: two sets of two features in a plane, three sets of two in a plane over densities, two sets of ten in
ten dimensions. Out: one safetensors file with one grid (`grid.Grid`) per arrangement and kind. Paper: section 4,
correlated features.
"""

from pathlib import Path

import torch

from common.core.step import Files, RunInfo, run_step
from replications.superposition.grid import Draw, save_grids, train_grid
from replications.superposition.model import Data, sample, sample_sets
from replications.superposition.settings import SetKind, Sets


class TrainFiles(Files):
    models: Path


def train_sets(files: TrainFiles, settings: Sets, run: RunInfo) -> None:
    """Trains all arrangements; grids are named `<arrangement>.<kind>`. All features are equally important."""
    grids = {}
    arrangements = {
        "pairs": settings.pairs,
        "three_pairs": settings.three_pairs,
        "local_bases": settings.local_bases,
    }
    for name, training in arrangements.items():
        importance = torch.ones(1, training.n_sets * training.members, dtype=torch.float64)
        for kind in training.kinds:
            grids[f"{name}.{kind}"] = train_grid(
                training.densities,
                importance,
                training.n_hidden,
                "relu",
                effort=training,
                seeds=run.seeds,
                device=run.device,
                draw=law(kind, training.members),
            )
    save_grids(files.models, grids)


def law(kind: SetKind, members: int) -> Draw:
    """How features of this kind are drawn; `independent` ignores the sets."""

    def draw(density: float, n_features: int, n_samples: int, seed: int) -> Data:
        if kind == "independent":
            return sample(density, n_features, n_samples, seed)
        return sample_sets(density, n_features // members, members, n_samples, seed, kind)

    return draw


if __name__ == "__main__":
    run_step(train_sets)
