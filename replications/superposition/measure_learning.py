"""Step: the stages of an octahedron, and jumps between levels of dimensionality, while models learn (section 5).

`octahedron`: early, the members of a correlated set share one direction, as in principal components; late, all six
features form an octahedron whose antipodes belong to different sets. Controls: the end against the beginning, and
independent features, divided into the same sets or, at the end, into random ones. `energy_levels`: in windows of one
percent of training, after the first twentieth, the largest change of any feature's D_i, how much faster the loss falls
in that window than in its neighbourhood, and both together: the largest change among windows in which the loss falls
more than `STEEP` times as fast as around them. Control: the linear model.
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
from replications.superposition.tables import compare, random_orders

SKIPPED = 0.05  # of training, in which weights leave their random start
AROUND = 5  # windows on either side that give the local trend
STEEP = 3.0  # times the local trend: the loss drops


class MeasureFiles(Files):
    octahedron_models: Path
    octahedron_metrics: Path
    octahedron_table: Path
    levels_models: Path | None = None
    levels_metrics: Path | None = None
    levels_table: Path | None = None
    """D_i over training"""


def measure_learning(files: MeasureFiles, run: RunInfo) -> None:
    """Measures the parts that were trained."""
    tensors = _load(files.octahedron_models)
    together = {kind: within_sets(tensors[f"{kind}.W"]).mean(-1) for kind in ("correlated", "independent")}
    write_metrics(files.octahedron_metrics, octahedron_metrics(tensors, together))
    rows = [
        [kind, seed, t / (len(course) - 1), float(course[t, k]), float(tensors[f"{kind}.loss"][t, k].mean())]
        for kind, course in together.items()
        for k, seed in enumerate(run.seeds)
        for t in range(len(course))
    ]
    write_table(files.octahedron_table, rows, ["kind", "seed", "time", "within_sets", "loss"], digits=8)
    if files.levels_models and files.levels_metrics and files.levels_table:
        tensors = _load(files.levels_models)
        shares = {arm: checked_dimensionality(tensors[f"{arm}.W"][:, :, 0]) for arm in ("relu", "linear")}
        losses = {arm: tensors[f"{arm}.loss"][:, :, 0] for arm in shares}
        write_metrics(files.levels_metrics, level_metrics(shares, losses))
        rows = [
            [arm, seed, t / (len(one) - 1), i, float(one[t, k, i]), float(losses[arm][t, k])]
            for arm, one in shares.items()
            for k, seed in enumerate(run.seeds)
            for t in range(len(one))
            for i in range(one.shape[-1])
        ]
        names = ["activation", "seed", "time", "feature", "dimensionality", "loss"]
        write_table(files.levels_table, rows, names, digits=8)


def _load(path: Path) -> dict[str, Tensor]:
    return {name: value.double() for name, value in load_file(path).items()}


def octahedron_metrics(
    tensors: dict[str, Tensor], together: dict[str, Float[Tensor, "snapshot seed"]]
) -> dict[str, Metric]:
    """One direction per set where the cosine within sets is largest, and an octahedron at the end."""
    correlated, independent = tensors["correlated.W"][-1], tensors["independent.W"][-1]
    course = together["correlated"]
    early = int(course.mean(1).argmax())
    random_sets = [
        float(across_sets(torch.cat([one[..., order] for order in random_orders(6, k)])).mean())
        for k, one in enumerate(independent)
    ]
    gap = (checked_dimensionality(correlated) - 0.5).abs().amax(-1).mean(-1)
    return {
        "early": compare([early / (len(course) - 1)] * course.shape[1], unit="share", formula="of training"),
        "together": compare(
            course[early],
            unit="1",
            formula="mean cosine within sets, where it is largest",
            end_of_training=course[-1],
            independent=together["independent"][early],
        ),
        "across": compare(
            across_sets(correlated).mean(-1),
            unit="share",
            formula="features whose antipode belongs to the other set, at the end",
            independent_random_sets=random_sets,
        ),
        "octahedron_gap": compare(gap, unit="dimensions", formula="max |D_i - 1/2| at the end, mean over starts"),
    }


def level_metrics(
    shares: dict[str, Float[Tensor, "snapshot seed feature"]], losses: dict[str, Float[Tensor, "snapshot seed"]]
) -> dict[str, Metric]:
    """Jumps of dimensionality and drops of the loss."""
    jumps = {
        arm: [largest_jump(shares[arm][:, k], losses[arm][:, k]) for k in range(one.shape[1])]
        for arm, one in shares.items()
    }
    texts = {
        "jump": ("dimensions", "largest change of a D_i within one percent of training"),
        "drop": ("1", f"fall of the loss where D_i changes most, over the median of the {2 * AROUND} windows around"),
        "jump_at_drop": ("dimensions", f"largest change of a D_i where the loss falls {STEEP:g} times as fast"),
    }
    metrics = {}
    for k, (name, (unit, text)) in enumerate(texts.items()):
        relu, linear = ([one[k] for one in jumps[arm]] for arm in ("relu", "linear"))
        metrics[name] = compare(relu, unit=unit, formula=text, linear=linear)
    return metrics


def largest_jump(
    shares: Float[Tensor, "snapshot feature"], loss: Float[Tensor, " snapshot"]
) -> tuple[float, float, float]:
    """The largest change of any D_i in one window, the fall of the loss there over the local trend, and the largest
    change among windows whose fall is more than `STEEP` times the local trend (0 if there is none)."""
    start = max(1, round(SKIPPED * (len(shares) - 1)))
    change = (shares[1:] - shares[:-1]).abs().amax(-1)[start:]
    fall = (loss[:-1] - loss[1:])[start:]
    around = [torch.cat([fall[max(0, k - AROUND) : k], fall[k + 1 : k + 1 + AROUND]]) for k in range(len(fall))]
    steepness = fall / torch.stack([one.median() for one in around]).clamp(min=1e-6 * loss[-1])
    at = int(change.argmax())
    return float(change[at]), float(steepness[at]), float(torch.where(steepness > STEEP, change, 0.0).max())


def within_sets(W: Float[Tensor, "*batch 3 6"]) -> Float[Tensor, "*batch"]:
    """Mean cosine between different members of a set; two sets of three neighbours."""
    cosines = _cosines(W)
    own = torch.arange(6) >= 3
    inside = (own[:, None] == own[None, :]) & ~torch.eye(6, dtype=torch.bool)
    return cosines[..., inside].mean(-1)


def across_sets(W: Float[Tensor, "*batch 3 6"]) -> Float[Tensor, "*batch"]:
    """Share of features whose most opposite feature is in the other set."""
    other = _cosines(W).argmin(-1)
    return ((other >= 3) != (torch.arange(6) >= 3)).double().mean(-1)


def _cosines(W: Float[Tensor, "*batch 3 6"]) -> Float[Tensor, "*batch 6 6"]:
    unit = W / norms(W).clamp(min=1e-12)[..., None, :]
    return unit.mT @ unit


if __name__ == "__main__":
    run_step(measure_learning)
