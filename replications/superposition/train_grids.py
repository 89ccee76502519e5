"""Step: trains a grid of small models: seeds, densities, importances and restarts, all side by side.

- Features of falling importance, I_i = decay^i as in the authors' notebook: sections 1, 2 and 4, and 8 with a ReLU on
  the hidden units.
- Cells: two features in one hidden unit, over the second one's importance and density: section 3.
- Sets of features, correlated, exclusive (anti-correlated) or, as the control, independent: section 4.

Out: one safetensors file with all restarts (`grid.Grid`): a grid per activation, or `<arrangement>.<kind>` of sets.
"""

from pathlib import Path

import torch

from common.core.step import Files, RunInfo, run_step
from replications.superposition.grid import Draw, Grid, save_grids, train_grid, values_of
from replications.superposition.model import Data, sample, sample_sets
from replications.superposition.settings import RANDOM, CellTraining, Effort, FeatureTraining, SetKind, Sets


class TrainFiles(Files):
    models: Path


def train_grids(files: TrainFiles, settings: FeatureTraining | CellTraining | Sets, run: RunInfo) -> None:
    """Trains the models of one part."""
    if isinstance(settings, FeatureTraining):
        save_grids(files.models, feature_grids(settings, run))
    elif isinstance(settings, CellTraining):
        save_grids(files.models, cell_grids(settings, run))
    else:
        save_grids(files.models, set_grids(settings, run))


def feature_grids(settings: FeatureTraining, run: RunInfo) -> dict[str, Grid]:
    """n features of falling importance in m hidden units; the first activation is the model, others are controls, as
    are models whose columns keep random directions (`RANDOM`)."""
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
    if settings.random_restarts:
        grids[RANDOM] = train_grid(
            [min(settings.densities)],
            importance[None],
            settings.n_hidden,
            settings.activations[0],
            effort=settings.model_copy(update={"restarts": settings.random_restarts}),
            seeds=run.seeds,
            device=run.device,
            directed=True,
        )
    return grids


def cell_grids(settings: CellTraining, run: RunInfo) -> dict[str, Grid]:
    """Importances (1, r) over a grid of r and density, ReLU and the linear control if it has restarts."""
    r = torch.tensor(values_of(settings.importances), dtype=torch.float64)
    importance = torch.stack([torch.ones_like(r), r], dim=1)
    restarts = {"relu": settings.restarts, "linear": settings.linear_restarts}
    grids: dict[str, Grid] = {}
    for activation in ("relu", "linear"):
        effort: Effort = settings.model_copy(update={"restarts": restarts[activation]})
        if effort.restarts:
            grids[activation] = train_grid(
                values_of(settings.densities),
                importance,
                1,
                activation,
                effort=effort,
                seeds=run.seeds,
                device=run.device,
            )
    return grids


def set_grids(settings: Sets, run: RunInfo) -> dict[str, Grid]:
    """Two and three sets of two in a plane, two sets of ten in ten dimensions; all features are equally important."""
    grids: dict[str, Grid] = {}
    arrangements = {
        "pairs": settings.pairs,
        "three_pairs": settings.three_pairs,
        "local_bases": settings.local_bases,
    }
    for name, training in arrangements.items():
        for kind in training.kinds:
            grids[f"{name}.{kind}"] = train_grid(
                training.densities,
                torch.ones(1, training.n_sets * training.members, dtype=torch.float64),
                training.n_hidden,
                "relu",
                effort=training,
                seeds=run.seeds,
                device=run.device,
                draw=law(kind, training.members),
            )
    return grids


def law(kind: SetKind, members: int) -> Draw:
    """How features of this kind are drawn; `independent` ignores the sets."""

    def draw(density: float, n_features: int, n_samples: int, seed: int) -> Data:
        if kind == "independent":
            return sample(density, n_features, n_samples, seed)
        return sample_sets(density, n_features // members, members, n_samples, seed, kind)

    return draw


if __name__ == "__main__":
    run_step(train_grids)
