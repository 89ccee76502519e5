"""The asymmetric motif of computation in superposition (Elhage et al. 2022, section 8), in units of a model of |x|.

A unit that serves two features can do so unevenly: input weights [2, -1/2] with output weights [1/2, 2]. Each feature
is still answered in full, but one of them disturbs the other sixteen times as much as the other way round; and another
unit then inhibits what is disturbed, so that positive interference becomes negative, which the last ReLU removes.

Two numbers say so. `compensation`: minus the correlation of ln |input weight| with ln (output weight), both relative
to their mean over the features that a unit serves and excites; 1 if output weights make up for input weights, about 0
if they are permuted within each unit. `cancelled`: of all that one active feature would wrongly add to other answers
through units that excite them, the share that inhibiting units take away again; the control permutes
the inhibiting weights among units.
"""

import itertools
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.metrics import Metric
from replications.superposition.geometry import FORGOTTEN
from replications.superposition.tables import compare

SERVED = 0.1  # of a unit's largest input weight; the paper's motif has a quarter
CLOSE = 1.5  # times the best loss: starts that are averaged
PERMUTATIONS = 50
COLUMNS = ["what", "seed", "unit", "feature", "horizontal", "vertical"]


def motif_metrics(models: dict[str, Tensor], seeds: list[int]) -> dict[str, Metric]:
    """Both numbers against their controls, means over close starts."""
    numbers = []
    for seed, W1, W2, loss in zip(seeds, *(models[f"motif.{name}"] for name in ("W1", "W2", "loss")), strict=True):
        close = (loss <= CLOSE * loss.min()).nonzero()[:, 0].tolist()
        generator = torch.Generator().manual_seed(seed)
        numbers.append(torch.tensor([_numbers(W1[k], W2[k], generator) for k in close]).mean(0))
    effect, permuted, taken, taken_permuted = torch.stack(numbers).T
    text = "minus the correlation of relative log input and output weights of the features that a unit excites"
    taken_text = "share of positive interference that inhibiting units take away"
    return {
        "compensation": compare(effect, unit="1", formula=text, permuted_weights=permuted),
        "cancelled": compare(taken, unit="share", formula=taken_text, permuted_units=taken_permuted),
    }


def motif_rows(models: dict[str, Tensor], seeds: list[int]) -> list[list[Any]]:
    """Rows (`COLUMNS`) of the best model of every seed."""
    rows = []
    for seed, W1, W2, loss in zip(seeds, *(models[f"motif.{name}"] for name in ("W1", "W2", "loss")), strict=True):
        rows += weight_rows(seed, W1[loss.argmin()], W2[loss.argmin()])
        rows += interference_rows(seed, W1[loss.argmin()], W2[loss.argmin()])
    return rows


def _numbers(
    W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"], generator: torch.Generator
) -> tuple[float, float, float, float]:
    permuted = [compensation(W1, W2, generator) for _ in range(PERMUTATIONS)]
    orders = [torch.randperm(len(W1), generator=generator) for _ in range(PERMUTATIONS)]
    taken = [cancelled(W1, W2, order) for order in orders]
    own = cancelled(W1, W2, torch.arange(len(W1)))
    return compensation(W1, W2), sum(permuted) / PERMUTATIONS, own, sum(taken) / PERMUTATIONS


def weight_rows(seed: int, W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"]) -> list[list[Any]]:
    """Input and output weight of every feature that a unit excites, over their geometric means in that unit."""
    rows = []
    for unit, which in enumerate(excited(W1, W2)):
        places = which.nonzero()[:, 0]
        if len(places) > 1:
            pair = [one / one.log().mean().exp() for one in (W1[unit, places].abs(), W2[places, unit])]
            columns = zip(places.tolist(), *(one.tolist() for one in pair), strict=True)
            rows += [["weight", seed, unit, *column] for column in columns]
    return rows


def interference_rows(
    seed: int, W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"]
) -> list[list[Any]]:
    """What one active feature adds to every other answer through exciting and takes through inhibiting units; `unit`
    is the active feature and `feature` the other answer."""
    raised, lowered = interference(W1, W2, torch.arange(len(W1)))
    return [
        ["interference", seed, active, answer, float(raised[k, answer, active]), float(lowered[k, answer, active])]
        for k, answer, active in itertools.product(range(2), range(len(W2)), range(len(W2)))
        if answer != active
    ]


def excited(W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"]) -> Bool[Tensor, "hidden feature"]:
    """Features that a unit serves (input weight above `SERVED` of its largest) and whose answer it raises."""
    size = W1.abs()
    largest = size.amax(-1, keepdim=True)
    return (size > SERVED * largest) & (largest > FORGOTTEN) & (FORGOTTEN * W2.abs().max() < W2.T)


def compensation(
    W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"], generator: torch.Generator | None = None
) -> float:
    """Minus the correlation of relative log weights; with a `generator`, output weights are permuted in each unit.

    0 if no unit excites two features.
    """
    into, outof = [], []
    for unit, which in enumerate(excited(W1, W2)):
        places = which.nonzero()[:, 0]
        if len(places) < 2:
            continue
        a, b = W1[unit, places].abs().log(), W2[places, unit].log()
        if generator is not None:
            b = b[torch.randperm(len(b), generator=generator)]
        into.append(a - a.mean())
        outof.append(b - b.mean())
    if not into:
        return 0.0
    a, b = torch.cat(into), torch.cat(outof)
    return -float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def cancelled(
    W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"], order: Int[Tensor, " hidden"]
) -> float:
    """Share of positive interference that inhibition takes away; unit k inhibits with the weights of unit `order[k]`.

    0 if there is none.
    """
    raised, lowered = interference(W1, W2, order)
    return float(1.0 - (raised - lowered).relu().sum() / raised.sum()) if bool(raised.any()) else 0.0


def interference(
    W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"], order: Int[Tensor, " hidden"]
) -> tuple[Float[Tensor, "sign feature active"], Float[Tensor, "sign feature active"]]:
    """What one feature at 1 or at -1 adds to the answers of others through exciting units, and takes by inhibition."""
    drive = torch.stack([W1.relu(), (-W1).relu()])
    pattern = "feature hidden, sign hidden active -> sign feature active"
    others = 1.0 - torch.eye(len(W2), dtype=W2.dtype)
    inhibiting = (-W2).relu()[:, order]
    return others * einsum(W2.relu(), drive, pattern), others * einsum(inhibiting, drive, pattern)
