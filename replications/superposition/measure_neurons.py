"""Step: which hidden unit serves which features when the hidden units have a ReLU (section 8).

`neurons` (privileged basis): a unit is polysemantic if two or more features have a weight above a quarter of its
largest one. Best of many restarts per density, as in the paper; the share of restarts that come close to the best says
how many that takes. Controls: the same model with linear hidden units, whose best solutions can be rotated at will, and
the other end of the density axis.

`absolute` (the model computes |x|): a unit serves the features whose input weight exceeds a quarter of its largest one.
Where both kinds of units exist, the paper finds that monosemantic units carry the most important features: here, the
chance that a feature with a unit of its own is more important than a served feature without one. It is 1/2 if kinds and
importance have nothing to do with each other: kinds permuted, the control. The sparser the features, the more units are
polysemantic: rank correlation over densities, control: densities permuted. Motif of small models: `motif`.
"""

import itertools
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import FORGOTTEN, HALF, norms
from replications.superposition.grid import Grid, load_grid
from replications.superposition.motif import COLUMNS, motif_metrics, motif_rows
from replications.superposition.settings import Absolute, MeasureNeurons
from replications.superposition.tables import compare, compare_ranks, nearest

SERVED = 0.25  # share of a unit's largest weight above which it serves a feature
CLOSE = 1.05
PERMUTATIONS = 200


class MeasureFiles(Files):
    neurons_models: Path
    neurons_metrics: Path
    neurons_table: Path
    """weights of the best models"""
    absolute_models: Path
    absolute_metrics: Path
    absolute_table: Path
    """input weights of every hidden unit, in units of its largest"""
    motif: Path
    """weights and interference of the best small models"""


def measure_neurons(files: MeasureFiles, settings: MeasureNeurons, run: RunInfo) -> None:
    """Measures both parts."""
    grids = {name: load_grid(files.neurons_models, name) for name in ("relu_hidden", "relu")}
    write_metrics(files.neurons_metrics, neuron_metrics(grids, settings.neurons.monosemantic_density))
    write_neuron_table(files.neurons_table, grids, run.seeds)
    models = load_file(files.absolute_models)
    metrics = absolute_metrics(models, settings.absolute, run.seeds) | motif_metrics(models, run.seeds)
    write_metrics(files.absolute_metrics, metrics)
    write_absolute_table(files.absolute_table, models, run.seeds)
    write_table(files.motif, motif_rows(models, run.seeds), COLUMNS, digits=8)


def neuron_metrics(grids: dict[str, Grid], monosemantic_density: float) -> dict[str, Metric]:
    """Polysemantic units of the best models, dense and sparse."""
    densities = grids["relu_hidden"].densities
    dense, sparse = nearest(densities, monosemantic_density), int(densities.argmin())
    best = {name: grid.best().W[:, :, 0] for name, grid in grids.items()}
    count = {name: polysemantic(W) for name, W in best.items()}
    kept = (norms(best["relu_hidden"]) > HALF).double().sum(-1)[:, sparse]
    close = close_restarts(grids["relu_hidden"])
    text = f"hidden units with two or more weights above {SERVED} of the largest, best restart"
    close_text = f"restarts within {CLOSE:g} times the best loss"
    return {
        "dense_polysemantic": compare(
            count["relu_hidden"][:, dense],
            unit="units",
            formula=f"{text}, dense",
            linear_hidden_units=count["relu"][:, dense],
        ),
        "sparse_polysemantic": compare(
            count["relu_hidden"][:, sparse],
            unit="units",
            formula=f"{text}, sparsest",
            dense=count["relu_hidden"][:, dense],
        ),
        "sparse_stored": compare(kept, unit="features", formula=f"||W_i|| > {HALF}, counted, sparsest"),
        "dense_close": compare(close[:, dense], unit="share", formula=close_text),
        "sparse_close": compare(close[:, sparse], unit="share", formula=close_text),
    }


def close_restarts(grid: Grid) -> Float[Tensor, "seed density"]:
    """Share of the restarts that end within `CLOSE` times the best loss."""
    loss = grid.loss[:, :, 0]
    return (loss <= CLOSE * loss.amin(-1, keepdim=True)).double().mean(-1)


def polysemantic(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Number of hidden units that serve several features; units without weights serve none."""
    size = W.abs()
    largest = size.amax(-1, keepdim=True)
    served = ((size > SERVED * largest) & (largest > FORGOTTEN)).sum(-1)
    return (served >= 2).double().sum(-1)


def write_neuron_table(path: Path, grids: dict[str, Grid], seeds: list[int]) -> None:
    """One row per unit and feature of the best models."""
    close, rows = close_restarts(grids["relu_hidden"]), []
    for name, grid in grids.items():
        W = grid.best().W[:, :, 0]
        count = polysemantic(W)
        rows += [
            [name, seed, s, j, i, float(W[k, d, j, i]), int(count[k, d]), float(close[k, d])]
            for (k, seed), (d, s) in itertools.product(enumerate(seeds), enumerate(grid.densities.tolist()))
            for j, i in itertools.product(range(W.shape[-2]), range(W.shape[-1]))
        ]
    names = ["activation", "seed", "density", "unit", "feature", "weight", "polysemantic", "close"]
    write_table(path, rows, names, digits=8)


def absolute_metrics(models: dict[str, Tensor], settings: Absolute, seeds: list[int]) -> dict[str, Metric]:
    """Polysemantic units by density, held-out loss, and which features have a unit of their own."""
    densities, W1, loss = (models[f"relu.{name}"] for name in ("densities", "W1", "loss"))
    dense, sparse = int(densities.argmax()), int(densities.argmin())
    control = nearest(densities, float(models["linear.densities"][0]))
    count = polysemantic(W1)
    text = f"hidden units with two or more input weights above {SERVED} of the largest"
    metrics = {
        "dense_polysemantic": compare(
            count[:, dense], unit="units", formula=f"{text}, densest", sparse=count[:, sparse]
        ),
        "sparse_polysemantic": compare(
            count[:, sparse], unit="units", formula=f"{text}, sparsest", dense=count[:, dense]
        ),
        "polysemantic_rank": compare_ranks(
            count,
            -densities.expand(len(seeds), -1),
            seeds,
            formula="rank correlation over densities of sparsity with polysemantic units",
        ),
        "error": compare(
            loss[:, control],
            unit="1",
            formula="held-out loss over that of the answer 0",
            linear_hidden_units=models["linear.loss"][:, 0],
        ),
    }
    text = "P(a feature with a unit of its own is more important than one without)"
    places = {"own_unit_importance": settings.mixed_density, "own_unit_importance_sparser": settings.sparser_density}
    for name, density in places.items():
        at = W1[:, nearest(densities, density)]
        permuted = [permuted_importance(one, seed) for one, seed in zip(at, seeds, strict=True)]
        metrics[name] = compare(
            [own_unit_is_important(one) for one in at], unit="1", formula=text, permuted_features=permuted
        )
    return metrics


def kinds(W1: Float[Tensor, "hidden feature"]) -> tuple[Bool[Tensor, " feature"], Bool[Tensor, " feature"]]:
    """Features that some monosemantic unit serves, and features that only polysemantic units serve."""
    size = W1.abs()
    largest = size.amax(-1, keepdim=True)
    serves = (size > SERVED * largest) & (largest > FORGOTTEN)
    own = (serves & (serves.sum(-1, keepdim=True) == 1)).any(0)
    return own, serves.any(0) & ~own


def own_unit_is_important(W1: Float[Tensor, "hidden feature"]) -> float:
    """Chance that a random feature with a unit of its own comes before (has a smaller index than) one without."""
    return share_before(*kinds(W1))


def share_before(own: Bool[Tensor, " feature"], shared: Bool[Tensor, " feature"]) -> float:
    """Share of pairs (own, shared) in which the own one is more important; 1/2 if there are no pairs."""
    first, second = own.nonzero(), shared.nonzero()
    return float((first < second.T).double().mean()) if len(first) and len(second) else 0.5


def permuted_importance(W1: Float[Tensor, "hidden feature"], seed: int) -> float:
    """The same with kinds permuted among the served features, mean of many permutations."""
    own, shared = kinds(W1)
    served = (own | shared).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chances = []
    for _ in range(PERMUTATIONS):
        permuted = torch.zeros_like(own)
        permuted[served[torch.randperm(len(served), generator=generator)[: int(own.sum())]]] = True
        chances.append(share_before(permuted, (own | shared) & ~permuted))
    return sum(chances) / PERMUTATIONS


def write_absolute_table(path: Path, models: dict[str, Tensor], seeds: list[int]) -> None:
    """One row per unit and feature with a weight."""
    densities, W1, loss = (models[f"relu.{name}"] for name in ("densities", "W1", "loss"))
    control, count = nearest(densities, float(models["linear.densities"][0])), polysemantic(W1)
    rows = []
    for (s, seed), (d, density) in itertools.product(enumerate(seeds), enumerate(densities.tolist())):
        linear = float(models["linear.loss"][s, 0]) if d == control else float("nan")
        scaled = W1[s, d] / W1[s, d].abs().amax(-1, keepdim=True).clamp(min=FORGOTTEN)
        rows += [
            [seed, density, j, i, float(scaled[j, i]), int(count[s, d]), float(loss[s, d]), linear]
            for j, i in itertools.product(range(W1.shape[-2]), range(W1.shape[-1]))
            if abs(float(scaled[j, i])) > FORGOTTEN
        ]
    names = ["seed", "density", "unit", "feature", "weight", "polysemantic", "error", "error_linear"]
    write_table(path, rows, names, digits=8)


if __name__ == "__main__":
    run_step(measure_neurons)
