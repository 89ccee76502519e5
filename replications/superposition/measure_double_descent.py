"""Step: points, then features in superposition, and the bump of the test loss between (Henighan et al. 2023).

Test loss against the number T of training points: its largest value strictly inside, less the larger of the two ends.
Dimensionality of features (columns of W) and of training points (hidden vectors h = W x), each weighted by its squared
length: unweighted means are m / n and m / T for any model that uses all its dimensions, and would say nothing.
Few vectors have large shares in any model, trained or not, so that points lead at few T proves nothing by itself; that
they share the plane equally does: all D are then m / T. (Regular polygons do, and so do other tight frames.)
Controls: a strong weight decay; the other end of the range of T; the same points in the untrained model.
The same bump for several numbers of hidden units m: its smallest height over m, and, as the control, the greatest one
over m under the strong weight decay.
"""

import itertools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import checked_dimensionality, norms
from replications.superposition.tables import add_pair
from replications.superposition.training_settings import WidthTraining

DRAWN = 1000
DECAYS = ("weak", "strong")
FEWEST, FEW = 0, 1  # indices of the sizes at which points should be stored


def measure_double_descent(
    *,
    models: Path,
    seeds: list[int],
    points: list[int],
    widths: WidthTraining,
    metrics: Path,
    table: Path,
    columns: Path,
    sweep: Path,
) -> None:
    """Writes `metrics` (JSON) and three CSV: `table` (losses and shares), `columns` (W and h of the first seed), and
    `sweep` (losses by number of hidden units).
    """
    if not models.is_file():
        raise UserError(f"{models} does not exist; run `make superposition` to train its models")
    tensors = {name: value.double() for name, value in load_file(models).items()}
    W, test = tensors["W"], tensors["test_loss"]
    used = seeds[: W.shape[2]]
    features = weighted_share(W)
    data = torch.stack([weighted_share(tensors[f"hidden.{size}"]) for size in points], dim=1)
    found: dict[str, Metric] = {}
    height = bump(test)
    text = "largest test loss at an inner T, less the larger of the losses at the smallest and the largest T"
    add_pair(found, "bump", height[0], height[1], "decayed", unit="loss", formula=text)
    where = torch.tensor(points, dtype=torch.float64)[1:-1][test[0, 1:-1].argmax(0)]
    found["bump_at"] = over_seeds(where.tolist(), unit="points", formula="T of the largest inner test loss")
    text = "sum_i ||v_i||^2 D_i / sum_i ||v_i||^2 over vectors v: columns of W, or hidden vectors of training points"
    for name, at, one, other in (("points_few", FEW, data, features), ("features_many", -1, features, data)):
        control = "features" if name == "points_few" else "points"
        add_pair(found, name, one[0, at], other[0, at], control, unit="dimensions", formula=text)
    start, end = (tensors[f"{name}.{points[FEWEST]}"] for name in ("start", "hidden"))
    text = "largest |D_i - m / T| over training points, smallest T"
    pair = (irregularity(end[0]), irregularity(start))
    add_pair(found, "points_irregular", *pair, "untrained", unit="dimensions", formula=text)
    by_width = bump(tensors["widths.test_loss"])
    text = "height of the bump at the m where it is lowest (control: highest)"
    add_pair(found, "bump_widths", by_width[0].amin(-1), by_width[1].amax(-1), "decayed", unit="loss", formula=text)
    for w, width in enumerate(widths.widths):
        inner = tensors["widths.test_loss"][0, 1:-1, :, w].argmax(0)
        where = torch.tensor(widths.points[1:-1], dtype=torch.float64)[inner]
        text = f"T of the largest inner test loss, m = {width}"
        found[f"bump_at_m{width}"] = over_seeds(where.tolist(), unit="points", formula=text)
    write_metrics(metrics, found)
    write_table(
        sweep,
        _by_width(tensors, widths, seeds),
        ["decay", "hidden", "seed", "points", "train_loss", "test_loss"],
        digits=8,
    )
    rows = [
        [
            decay,
            seed,
            size,
            float(tensors["train_loss"][a, t, k]),
            float(test[a, t, k]),
            float(features[a, t, k]),
            float(data[a, t, k]),
        ]
        for a, decay in enumerate(DECAYS)
        for t, size in enumerate(points)
        for k, seed in enumerate(used)
    ]
    write_table(
        table, rows, ["decay", "seed", "points", "train_loss", "test_loss", "feature_share", "point_share"], digits=8
    )
    vectors = [
        [size, kind, i, *column]
        for t, size in enumerate(points)
        for kind, one in (("feature", W[0, t, 0]), ("point", tensors[f"hidden.{size}"][0, 0]))
        for i, column in zip(*longest(one), strict=True)
    ]
    write_table(columns, vectors, ["points", "kind", "index", "x", "y"], digits=8)


def bump(test_loss: Float[Tensor, "decay size *model"]) -> Float[Tensor, "decay *model"]:
    """Largest test loss at an inner size, less the larger of the losses at both ends."""
    return test_loss[:, 1:-1].amax(1) - torch.maximum(test_loss[:, 0], test_loss[:, -1])


def _by_width(tensors: dict[str, Tensor], widths: WidthTraining, seeds: list[int]) -> list[list[Any]]:
    axes = (enumerate(DECAYS), enumerate(widths.points), enumerate(seeds[: widths.n_seeds]), enumerate(widths.widths))
    return [
        [
            decay,
            width,
            seed,
            size,
            *(float(tensors[f"widths.{name}"][a, t, k, w]) for name in ("train_loss", "test_loss")),
        ]
        for (a, decay), (t, size), (k, seed), (w, width) in itertools.product(*axes)
    ]


def weighted_share(W: Float[Tensor, "*batch hidden vector"]) -> Float[Tensor, "*batch"]:
    """Mean of D_i weighted by squared length, of vectors of any scale."""
    scaled = to_unit(W)
    square = norms(scaled).square()
    return (square * checked_dimensionality(scaled)).sum(-1) / square.sum(-1)


def longest(W: Float[Tensor, "hidden vector"]) -> tuple[list[int], list[list[float]]]:
    """Places and values of the `DRAWN` longest vectors, in their order: more cannot be seen in a figure."""
    kept = norms(W).argsort(descending=True)[:DRAWN].sort().values
    return kept.tolist(), W[:, kept].T.tolist()


def irregularity(W: Float[Tensor, "*batch hidden vector"]) -> Float[Tensor, "*batch"]:
    """Largest distance of a D_i from the m / T of a regular arrangement of T vectors in m dimensions."""
    return (checked_dimensionality(to_unit(W)) - W.shape[-2] / W.shape[-1]).abs().amax(-1)


def to_unit(W: Float[Tensor, "*batch hidden vector"]) -> Float[Tensor, "*batch hidden vector"]:
    """Scaled so that the longest vector has length 1."""
    return W / norms(W).amax(-1)[..., None, None].clamp(min=1e-12)


if __name__ == "__main__":
    run(measure_double_descent)
