"""Trains every model of a grid, seeds x densities x importances x restarts, and keeps all of them on disk.

Restarts matter: with one or two hidden units many starts end in a worse arrangement of the same features. Section 8 of
the paper's comments and every replication agree. So a cell is judged by its best restart, chosen on an evaluation
sample that all restarts and all seeds of a density share. The other restarts stay in the file: they are the branches of
worse local minima that a first-order transition needs.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic
from common.core.step import track
from replications.superposition.geometry import norms
from replications.superposition.model import Activation, Data, evaluate, sample, stack
from replications.superposition.settings import Effort, Span
from replications.superposition.training import initial, minimise

CHUNK = {"cpu": 2**20, "cuda": 2**26}  # numbers in one activation tensor: what the cache or the memory holds
START, EVALUATION = 10**9, 2 * 10**9  # keep the seeds of weights, training samples and evaluation samples apart


def values_of(span: Span) -> list[float]:
    """All values, from first to last; the ends are exact."""
    ratio = (span.last / span.first) ** (1 / (span.cells - 1))
    return [span.first, *(span.first * ratio**k for k in range(1, span.cells - 1)), span.last]


class Grid(NamedTuple):
    """All models of a grid, float64. `loss` is measured on the shared evaluation sample of each density."""

    W: Float[Tensor, "seed density row restart hidden feature"]
    b: Float[Tensor, "seed density row restart feature"]
    loss: Float[Tensor, "seed density row restart"]
    gradient: Float[Tensor, "seed density row restart"]
    densities: Float[Tensor, " density"]
    importance: Float[Tensor, "row feature"]

    def best(self) -> "Best":
        """The restart of least loss in every cell."""
        chosen: Int[Tensor, "seed density row"] = self.loss.argmin(-1)
        at = chosen[..., None]
        pick_W = repeat(at, "... one -> ... one hidden feature", hidden=self.W.shape[-2], feature=self.W.shape[-1])
        pick_b = repeat(at, "... one -> ... one feature", feature=self.b.shape[-1])
        return Best(
            self.W.gather(-3, pick_W).squeeze(-3),
            self.b.gather(-2, pick_b).squeeze(-2),
            self.loss.gather(-1, at).squeeze(-1),
        )


class Best(NamedTuple):
    """One model per cell."""

    W: Float[Tensor, "seed density row hidden feature"]
    b: Float[Tensor, "seed density row feature"]
    loss: Float[Tensor, "seed density row"]


Draw = Callable[[float, int, int, int], Data]  # density, features, samples, seed: one data set, as `model.sample`


def train_grid(
    densities: list[float],
    importance: Float[Tensor, "row feature"],
    n_hidden: int,
    activation: Activation,
    *,
    effort: Effort,
    seeds: list[int],
    device: str,
    draw: Draw = sample,
    directed: bool = False,
) -> Grid:
    """Trains all models; a chunk of instances that fits the device's cache or memory at a time.

    A seed decides the starting weights and, together with the density, the training sample. Training runs in float32,
    the evaluation loss on other points in float64. `draw` is the law of the data; another law may read the values of
    `densities` in its own way. With `directed`, columns keep their starting directions, and only their lengths and the
    biases are trained. UserError if the device is missing, or if there is nothing to squeeze (n <= m).
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch sees no GPU; use SCALE=laptop or install the CUDA build")
    restarts, samples, evaluation_samples = effort.restarts, effort.samples, effort.evaluation_samples
    rows, n_features = importance.shape
    if n_features <= n_hidden:
        raise UserError(f"{n_features} features fit into {n_hidden} hidden units: give n_features more than n_hidden")
    places = list(itertools.product(range(len(seeds)), range(len(densities))))
    sets_at_once = max(1, CHUNK[device] // (rows * restarts * n_features * samples))
    rows_at_once = min(rows, max(1, CHUNK[device] // (restarts * n_features * samples)))
    shape = (len(seeds), len(densities), rows, restarts)
    grid = Grid(
        torch.zeros(*shape, n_hidden, n_features, dtype=torch.float64),
        torch.zeros(*shape, n_features, dtype=torch.float64),
        torch.zeros(shape, dtype=torch.float64),
        torch.zeros(shape, dtype=torch.float64),
        torch.tensor(densities, dtype=torch.float64),
        importance,
    )
    for first in track(range(0, len(places), sets_at_once), f"{activation} models, {sets_at_once} data sets at a time"):
        chunk = places[first : first + sets_at_once]
        starts = [_start(seeds[s], d, rows * restarts, n_hidden, n_features) for s, d in chunk]
        data = stack([draw(densities[d], n_features, samples, _sample_seed(seeds[s], d)) for s, d in chunk])
        check = stack([draw(densities[d], n_features, evaluation_samples, EVALUATION + d) for _, d in chunk])
        data, check = _to(data, device, torch.float32), _to(check, device, torch.float64)
        for low in range(0, rows, rows_at_once):
            part = slice(low, low + rows_at_once)
            copies = slice(low * restarts, (low + rows_at_once) * restarts)
            W, b = (torch.cat([start[copies] for start in one]) for one in zip(*starts, strict=True))
            scale = repeat(importance[part], "r f -> (set r restart) f", set=len(chunk), restart=restarts).to(device)
            W, b = W.to(data.x), b.to(data.x)
            along = W / norms(W)[:, None] if directed else None
            start = W if along is None else norms(W)[:, None]
            trained = minimise(start, b, data, scale.float(), activation, steps=effort.steps, directions=along)
            W = (trained.W if along is None else along * trained.W).double()
            b = trained.b.double()
            loss = evaluate(W, b, check, scale, activation).loss
            for target, value in zip(grid, (W, b, loss, trained.gradient.double()), strict=False):
                back = rearrange(
                    value.cpu(), "(set r restart) ... -> set r restart ...", set=len(chunk), restart=restarts
                )
                for place, one in zip(chunk, back, strict=True):
                    target[place][part] = one
    return grid


def save_grids(path: Path, grids: dict[str, Grid]) -> None:
    """Writes grids as one safetensors file, tensors named `<name>.<field>`."""
    tensors = {
        f"{name}.{field}": tensor.clone() for name, grid in grids.items() for field, tensor in grid._asdict().items()
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def load_grid(path: Path, name: str) -> Grid:
    """Reads one grid. UserError if the file is missing or lacks it."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `make superposition` to train its models")
    tensors = load_file(path)
    try:
        return Grid(**{field: tensors[f"{name}.{field}"] for field in Grid._fields})
    except KeyError as missing:
        raise UserError(f"{path} lacks {missing}; delete it and run `make superposition`") from None


def _sample_seed(seed: int, density: int) -> int:
    """Every seed and density has its own training sample."""
    return seed * 10_000 + density


def _start(seed: int, density: int, copies: int, n_hidden: int, n_features: int) -> tuple[Tensor, Tensor]:
    """Starting weights of all rows and restarts of one seed and density."""
    generator = torch.Generator().manual_seed(START + _sample_seed(seed, density))
    return initial(copies, n_hidden, n_features, generator)


def _to(data: Data, device: str, dtype: torch.dtype) -> Data:
    return Data(data.x.to(device, dtype), data.weight.to(device, dtype))
