"""Step: which hidden unit serves which features when the hidden units have a ReLU (sections 7, 8).

`neurons` (privileged basis): best of many restarts per density, as in the paper. Features per unit, the participation
ratio (sum |w|)^2 / sum w^2 of a unit's weights, is 1 if the unit has one feature. Controls: the same model with linear
hidden units, whose best solutions can be rotated at will; sparse features; untrained weights. The paper's bands: with
falling density no unit, two, three and then all five serve several features. Control: the bands in reverse order.

`absolute` (the model computes |x|): loss over that of the best monosemantic solution, which is exact (`absolute`). Only
units that serve several features can bring it below 1. Controls: dense features, linear hidden units, and random codes:
input weights that stay random while the rest is learned. How such units
work: asymmetric weights and inhibition (`absolute.asymmetry`, `absolute.inhibition`); controls: permuted weights.
"""

import itertools
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.absolute import asymmetry, inhibition, polysemantic, serves
from replications.superposition.geometry import FORGOTTEN, HALF, norms
from replications.superposition.grid import Grid, load_grid
from replications.superposition.settings import MeasureNeurons, Neurons
from replications.superposition.tables import compare, nearest
from replications.superposition.training import initial

BANDS = {0.5: 0, 0.3: 2, 0.15: 3, 0.05: 5}  # density: units that serve several features, of five
CLOSE = 1.05
DRAWS = 50


class MeasureFiles(Files):
    absolute_models: Path
    absolute_metrics: Path
    absolute_table: Path
    """input weights of every hidden unit, in units of its largest"""
    motif: Path
    """input and output weights of the features that a unit excites"""
    neurons_models: Path | None = None
    neurons_metrics: Path | None = None
    neurons_table: Path | None = None
    """weights of the best models"""


def measure_neurons(files: MeasureFiles, settings: MeasureNeurons, run: RunInfo) -> None:
    """Measures both parts."""
    models = best_models(load_file(files.absolute_models))
    write_metrics(files.absolute_metrics, absolute_metrics(models, settings.absolute.judged_density, run.seeds))
    write_absolute_tables(files, models, settings.absolute.judged_density, run.seeds)
    if settings.neurons and files.neurons_models and files.neurons_metrics and files.neurons_table:
        grids = {name: load_grid(files.neurons_models, name) for name in ("relu_hidden", "relu")}
        write_metrics(files.neurons_metrics, neuron_metrics(grids, settings.neurons, run.seeds))
        write_neuron_table(files.neurons_table, grids, run.seeds)


def neuron_metrics(grids: dict[str, Grid], settings: Neurons, seeds: list[int]) -> dict[str, Metric]:
    """Features per unit of the best models, dense and sparse, and the paper's bands."""
    grid = grids["relu_hidden"]
    dense, sparse = (nearest(grid.densities, s) for s in (settings.monosemantic_density, settings.polysemantic_density))
    best = {name: one.best().W[:, :, 0] for name, one in grids.items()}
    ratio = {name: features_per_unit(W) for name, W in best.items()}
    shape = (DRAWS, grid.W.shape[-2], grid.W.shape[-1])
    untrained = [
        float(features_per_unit(initial(*shape, torch.Generator().manual_seed(seed))[0]).mean()) for seed in seeds
    ]
    count = polysemantic(best["relu_hidden"])
    at = {s: nearest(grid.densities, s) for s in BANDS if float((grid.densities / s).log().abs().min()) < 0.01}
    text = "(sum |w|)^2 / sum w^2 over a unit's weights, mean over units, best restart"
    close = (grid.loss <= CLOSE * grid.loss.amin(-1, keepdim=True)).double().mean(-1)[:, :, 0]
    metrics = {
        "dense_features_per_unit": compare(
            ratio["relu_hidden"][:, dense],
            unit="features",
            formula=f"{text}, dense",
            linear_hidden_units=ratio["relu"][:, dense],
            sparse=ratio["relu_hidden"][:, sparse],
            untrained=untrained,
        ),
        "sparse_polysemantic": compare(
            count[:, sparse],
            unit="units",
            formula="hidden units with two or more weights above a quarter of the largest, best restart, sparse",
            dense=count[:, dense],
        ),
        "stored": compare(
            (norms(best["relu_hidden"][:, sparse]) > HALF).double().sum(-1), unit="features", formula="||W_i|| > 1/2"
        ),
    }
    if at:
        found, wanted = count[:, list(at.values())], torch.tensor([float(BANDS[s]) for s in at], dtype=count.dtype)
        metrics["bands_missed"] = compare(
            (found - wanted).abs().mean(-1),
            unit="units",
            formula=f"mean |polysemantic units - paper's| at densities {', '.join(map(str, at))}",
            bands_reversed=(found - wanted.flip(0)).abs().mean(-1),
        )
    if (densest := int(grid.densities.argmax())) != dense:
        metrics["densest_features_per_unit"] = compare(
            ratio["relu_hidden"][:, densest],
            unit="features",
            formula=f"{text}, densest",
            linear_hidden_units=ratio["relu"][:, densest],
        )
    for s, name in ((dense, "dense"), (sparse, "sparse")):
        text = f"restarts within {CLOSE:g} times the best loss, {name}"
        metrics[f"{name}_close"] = compare(close[:, s], unit="share", formula=text)
    return metrics


def features_per_unit(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Participation ratio of a unit's weights, mean over the units that have weights."""
    size = W.abs()
    ratio = size.sum(-1).square() / size.square().sum(-1).clamp(min=1e-24)
    used = size.amax(-1) > FORGOTTEN
    return (ratio * used).sum(-1) / used.sum(-1).clamp(min=1)


def write_neuron_table(path: Path, grids: dict[str, Grid], seeds: list[int]) -> None:
    """One row per unit and feature of the best models."""
    rows = []
    for name, grid in grids.items():
        W = grid.best().W[:, :, 0]
        count, close = polysemantic(W), (grid.loss <= CLOSE * grid.loss.amin(-1, keepdim=True)).double().mean(-1)
        rows += [
            [name, seed, s, j, i, float(W[k, d, j, i]), int(count[k, d]), float(close[k, d, 0])]
            for (k, seed), (d, s) in itertools.product(enumerate(seeds), enumerate(grid.densities.tolist()))
            for j, i in itertools.product(range(W.shape[-2]), range(W.shape[-1]))
        ]
    names = ["activation", "seed", "density", "unit", "feature", "weight", "polysemantic", "close"]
    write_table(path, rows, names, digits=8)


def best_models(models: dict[str, Tensor]) -> dict[str, Tensor]:
    """The restart of least held-out loss: the same names without the restart axis."""
    found = {}
    for hidden in ("relu", "linear"):
        loss = models[f"{hidden}.loss"]
        at = loss.argmin(-1)
        found[f"{hidden}.densities"] = models[f"{hidden}.densities"]
        for name in ("W1", "W2", "loss"):
            value = models[f"{hidden}.{name}"]
            index = at.reshape(*at.shape, *[1] * (value.dim() - 2)).expand(-1, -1, 1, *value.shape[3:])
            found[f"{hidden}.{name}"] = value.gather(2, index).squeeze(2)
    return found | {"codes.loss": models["codes.loss"].amin(-1)}


def absolute_metrics(models: dict[str, Tensor], judged: float, seeds: list[int]) -> dict[str, Metric]:
    """Loss over the best monosemantic solution, units that serve several features, and how they do it."""
    densities, W1, W2, loss = (models[f"relu.{name}"] for name in ("densities", "W1", "W2", "loss"))
    at, dense = nearest(densities, judged), int(densities.argmax())
    count = polysemantic(W1)
    numbers = []
    for seed, into, outof in zip(seeds, W1[:, at], W2[:, at], strict=True):
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(into), generator=generator) for _ in range(DRAWS)]
        numbers.append(
            [
                asymmetry(into, outof),
                sum(asymmetry(into, outof, generator) for _ in range(DRAWS)) / DRAWS,
                inhibition(into, outof, torch.arange(len(into))),
                sum(inhibition(into, outof, order) for order in orders) / DRAWS,
            ]
        )
    uneven, uneven_permuted, taken, taken_permuted = torch.tensor(numbers).T
    return {
        "loss_over_monosemantic": compare(
            loss[:, at],
            unit="1",
            formula="held-out loss over v(s) sum_{i >= m / 2} I_i, best restart",
            dense=loss[:, dense],
            linear_hidden_units=models["linear.loss"][:, 0],
            random_codes=models["codes.loss"][:, 0],
        ),
        "polysemantic_units": compare(
            count[:, at] / W1.shape[-2],
            unit="share",
            formula="hidden units with two or more input weights above a quarter of the largest",
            dense=count[:, dense] / W1.shape[-2],
        ),
        "asymmetry": compare(
            uneven,
            unit="1",
            formula="minus the correlation of relative log input and output weights of the features a unit excites",
            permuted_weights=uneven_permuted,
        ),
        "inhibition": compare(
            taken,
            unit="share",
            formula="share of positive interference that inhibiting units take away",
            permuted_units=taken_permuted,
        ),
    }


def write_absolute_tables(files: MeasureFiles, models: dict[str, Tensor], judged: float, seeds: list[int]) -> None:
    """Weights by unit and feature; of the judged density, pairs of weights of every unit."""
    densities, W1, W2, loss = (models[f"relu.{name}"] for name in ("densities", "W1", "W2", "loss"))
    at, count = nearest(densities, judged), polysemantic(W1)
    rows, pairs = [], []
    for (s, seed), (d, density) in itertools.product(enumerate(seeds), enumerate(densities.tolist())):
        linear = float(models["linear.loss"][s, 0]) if d == at else float("nan")
        scaled = W1[s, d] / W1[s, d].abs().amax(-1, keepdim=True).clamp(min=FORGOTTEN)
        rows += [
            [seed, density, j, i, float(scaled[j, i]), int(count[s, d]), float(loss[s, d]), linear]
            for j, i in (scaled.abs() > FORGOTTEN).nonzero().tolist()
        ]
    for s, seed in enumerate(seeds):
        into, outof = W1[s, at], W2[s, at].T
        kept = serves(into)
        pairs += [[seed, j, i, float(into[j, i]), float(outof[j, i]), bool(kept[j, i])] for j, i in
                  (kept | (outof.abs() > FORGOTTEN * outof.abs().max())).nonzero().tolist()]  # fmt: skip
    names = ["seed", "density", "unit", "feature", "weight", "polysemantic", "loss", "loss_linear"]
    write_table(files.absolute_table, rows, names, digits=8)
    write_table(files.motif, pairs, ["seed", "unit", "feature", "into", "outof", "served"], digits=8)


if __name__ == "__main__":
    run_step(measure_neurons)
