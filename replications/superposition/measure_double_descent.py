"""Step: points, then features in superposition, and the bump of the test loss between (Henighan et al. 2023).

Test loss against the number T of training points: how often it doubles from the larger of the two ends to its largest
value strictly inside. Heights differ by a factor of ten between models, so their logarithms are averaged.
Dimensionality of features (columns of W) and of training points (hidden vectors h = W x), each weighted by its squared
length. Unweighted means are m / n and m / T for any model that uses all its dimensions, and would say nothing. Few
vectors have large shares in any model, trained or not, so that points lead at few T proves nothing by itself. That they
share the plane equally does: all D are then m / T. (Regular polygons do, and so do other tight frames.) Controls: a
strong weight decay; the dimensionalities of points; the same points in the untrained model.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import checked_dimensionality, norms
from replications.superposition.settings import FewPoints
from replications.superposition.tables import compare

DRAWN = 1000
DECAYS = ("weak", "strong")
FEWEST, FEW, MANY = 0, 1, -1  # indices of the sizes at which points, or features, should be stored


class MeasureFiles(Files):
    models: Path
    metrics: Path
    table: Path
    """losses and shares"""
    columns: Path
    """W and h of the first seed"""


def measure_double_descent(files: MeasureFiles, settings: FewPoints, run: RunInfo) -> None:
    """Measures losses and dimensionalities over the number of points."""
    points = settings.points
    tensors = _load(files.models)
    features = weighted_share(tensors["W"])
    data = torch.stack([weighted_share(tensors[f"hidden.{size}"]) for size in points], dim=1)
    write_metrics(files.metrics, descent_metrics(tensors, points, features, data))
    rows = [
        [decay, seed, size, *(float(tensors[f"{name}_loss"][a, t, k]) for name in ("train", "test")),
         float(features[a, t, k]), float(data[a, t, k])]
        for a, decay in enumerate(DECAYS) for t, size in enumerate(points)
        for k, seed in enumerate(run.seeds[: features.shape[2]])
    ]  # fmt: skip
    names = ["decay", "seed", "points", "train_loss", "test_loss", "feature_share", "point_share"]
    write_table(files.table, rows, names, digits=8)
    vectors = [
        [size, kind, i, *column]
        for t, size in enumerate(points)
        for kind, one in (("feature", tensors["W"][0, t, 0]), ("point", tensors[f"hidden.{size}"][0, 0]))
        for i, column in zip(*longest(one), strict=True)
    ]
    write_table(files.columns, vectors, ["points", "kind", "index", "x", "y"], digits=8)


def _load(path: Path) -> dict[str, Tensor]:
    return {name: value.double() for name, value in load_file(path).items()}


def descent_metrics(
    tensors: dict[str, Tensor],
    points: list[int],
    features: Float[Tensor, "decay size seed"],
    data: Float[Tensor, "decay size seed"],
) -> dict[str, Metric]:
    """The bump, and who is stored at few and at many points."""
    test = tensors["test_loss"]
    height = bump(test)
    start, end = tensors[f"start.{points[FEWEST]}"], tensors[f"hidden.{points[FEWEST]}"][0]
    text = "sum_i ||v_i||^2 D_i / sum_i ||v_i||^2 over vectors v: columns of W, or hidden vectors of training points"
    return {
        "bump": compare(
            height[0],
            unit="doublings",
            formula="log2 of the largest test loss at an inner T over the larger of those at both ends",
            strong_decay=height[1],
        ),
        "bump_at": compare(bump_place(test, points), unit="points", formula="T of the largest inner test loss"),
        **{
            f"{name}_over_constant": compare(
                test[0, at] / tensors["constant_loss"],
                unit="1",
                formula=f"test loss at the {size} T over that of the best constant answer",
                strong_decay=test[1, at] / tensors["constant_loss"],
            )
            for name, at, size in (("fewest", FEWEST, "smallest"), ("most", MANY, "largest"))
        },
        "points_few": compare(data[0, FEW], unit="dimensions", formula=text, features=features[0, FEW]),
        "features_many": compare(features[0, MANY], unit="dimensions", formula=text, points=data[0, MANY]),
        "points_irregular": compare(
            irregularity(end),
            unit="dimensions",
            formula="largest |D_i - m / T| over training points, smallest T",
            untrained=irregularity(start),
        ),
    }


def bump(test_loss: Float[Tensor, "decay size *model"]) -> Float[Tensor, "decay *model"]:
    """log2 of the largest test loss at an inner size over the larger of the losses at both ends."""
    return (test_loss[:, 1:-1].amax(1) / torch.maximum(test_loss[:, 0], test_loss[:, -1])).log2()


def bump_place(test_loss: Float[Tensor, "decay size seed"], points: list[int]) -> Float[Tensor, " seed"]:
    """T of the largest inner test loss under the weak decay."""
    return torch.tensor(points, dtype=torch.float64)[1:-1][test_loss[0, 1:-1].argmax(0)]


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
    run_step(measure_double_descent)
