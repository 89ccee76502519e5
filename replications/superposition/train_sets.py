"""Step: trains features that occur in sets: correlated, exclusive (anti-correlated), or independent as the control.

Three arrangements: two sets of two features in a plane, three sets of two in a plane over densities, two sets of ten in
ten dimensions. Out: one safetensors file with one grid (`grid.Grid`) per arrangement and kind. Paper: section 4,
correlated features.
"""

from pathlib import Path

import torch

from common.core.step import run
from replications.superposition.grid import Draw, save_grids, train_grid
from replications.superposition.model import Data, sample, sample_sets
from replications.superposition.training_settings import Device, SetKind, SetTraining


def train_sets(
    *,
    pairs: SetTraining,
    three_pairs: SetTraining,
    local_bases: SetTraining,
    seeds: list[int],
    device: Device,
    out: Path,
) -> None:
    """Trains and writes `out`; grids are named `<arrangement>.<kind>`. All features are equally important."""
    grids = {}
    for name, training in (("pairs", pairs), ("three_pairs", three_pairs), ("local_bases", local_bases)):
        importance = torch.ones(1, training.n_sets * training.members, dtype=torch.float64)
        for kind in training.kinds:
            grids[f"{name}.{kind}"] = train_grid(
                training.densities,
                importance,
                training.n_hidden,
                "relu",
                effort=training,
                seeds=seeds,
                device=device,
                draw=law(kind, training.members),
            )
    save_grids(out, grids)


def law(kind: SetKind, members: int) -> Draw:
    """How features of this kind are drawn; `independent` ignores the sets."""

    def draw(density: float, n_features: int, n_samples: int, seed: int) -> Data:
        if kind == "independent":
            return sample(density, n_features, n_samples, seed)
        return sample_sets(density, n_features // members, members, n_samples, seed, kind)

    return draw


if __name__ == "__main__":
    run(train_sets)
