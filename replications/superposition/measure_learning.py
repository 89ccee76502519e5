"""Step: the stages of an octahedron, and jumps between levels of dimensionality, while models learn (section 5).

`octahedron`: early, the members of a correlated set share one direction, as in principal components. Late, all six
features form an octahedron whose antipodes belong to different sets. Controls: the end against the beginning, and
independent features. These are divided into the same sets (at the same moment, and where they lie together most) or, at
the end, into random ones.

`energy_levels`: features move from level to level of dimensionality, and the loss drops when they do. It is measured
after the first twentieth of training, in which all weights grow. The measure is the share of the loss's fall within the
tenth of the windows in which the D_i change most. Controls: the same falls at times shifted by 5 to 15 % of training,
and in permuted windows. Both move the slow decay that loss and D_i may have in common, so they are low for two smooth
curves without levels, too. The other two leave it in place. They are the first tenth of the windows (`first_windows`),
and the tenth in which the weights move most, whatever that does to the D_i (`largest_steps`).
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import HALF, checked_dimensionality, norms
from replications.superposition.tables import compare, random_orders

SKIPPED = 0.05  # of training, in which weights leave their random start
MOST = 0.1  # of the windows: those in which the dimensionalities change most
NEAR = (0.05, 0.15)  # of training: shifts of the control
LEVEL = 0.02  # distance from 1/2 below which a feature is at that level
PERMUTATIONS = 100


class MeasureFiles(Files):
    octahedron_models: Path
    octahedron_metrics: Path
    octahedron_table: Path
    octahedron_paths: Path
    """columns of W over training, one model"""
    levels_models: Path
    levels_metrics: Path
    levels_table: Path
    """D_i over training"""


def measure_learning(files: MeasureFiles, run: RunInfo) -> None:
    """Measures both parts."""
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
    path, loss = _in_final_axes(tensors["correlated.W"][:, 0, 0]), tensors["correlated.loss"][:, 0, 0]
    rows = [
        [t / (len(path) - 1), float(loss[t]), i, *path[t, :, i].tolist()]
        for t in range(len(path))
        for i in range(path.shape[-1])
    ]
    write_table(files.octahedron_paths, rows, ["time", "loss", "feature", "x", "y", "z"], digits=8)

    tensors = _load(files.levels_models)
    shares, loss = checked_dimensionality(tensors["stream.W"][:, :, 0]), tensors["stream.loss"][:, :, 0]
    write_metrics(files.levels_metrics, level_metrics(tensors["stream.W"][:, :, 0], shares, loss, run.seeds))
    rows = []
    for k, seed in enumerate(run.seeds):
        change, _ = windows_of(shares[:, k], loss[:, k])
        most = {len(shares) - len(change) + place for place in most_change(change).tolist()}
        rows += [
            [seed, t / (len(shares) - 1), i, float(shares[t, k, i]), float(loss[t, k]), t in most]
            for t in range(len(shares))
            for i in range(shares.shape[-1])
        ]
    names = ["seed", "time", "feature", "dimensionality", "loss", "most_change"]
    write_table(files.levels_table, rows, names, digits=8)


def _in_final_axes(W: Float[Tensor, "snapshot 3 feature"]) -> Float[Tensor, "snapshot 3 feature"]:
    """Turned so that three features that end at right angles lie near the axes: a picture does not show the turn."""
    unit = W[-1] / norms(W[-1])
    other = int((unit.T @ unit)[0].abs().argmin())
    third = torch.linalg.cross(unit[:, 0], unit[:, other])
    basis, triangle = torch.linalg.qr(torch.stack([unit[:, 0], unit[:, other], third], 1))
    turned: Tensor = (basis * triangle.diagonal().sign()).T @ W
    return turned


def _load(path: Path) -> dict[str, Tensor]:
    return {name: value.double() for name, value in load_file(path).items()}


def octahedron_metrics(
    tensors: dict[str, Tensor], together: dict[str, Float[Tensor, "snapshot seed"]]
) -> dict[str, Metric]:
    """One direction per set where the cosine within sets is largest, and an octahedron at the end."""
    correlated, independent = tensors["correlated.W"][-1], tensors["independent.W"][-1]
    course, free = together["correlated"], together["independent"]
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
            independent=free[early],
            independent_at_its_largest=free[int(free.mean(1).argmax())],
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
    W: Float[Tensor, "snapshot seed hidden feature"],
    shares: Float[Tensor, "snapshot seed feature"],
    loss: Float[Tensor, "snapshot seed"],
    seeds: list[int],
) -> dict[str, Metric]:
    """Changes of dimensionality and drops of the loss; where features end; how long training goes on."""
    windows = len(shares) - 1
    shifts = [k for k in range(1, windows) if NEAR[0] <= k / windows <= NEAR[1]]
    numbers = []
    for k, seed in enumerate(seeds):
        change, fall = windows_of(shares[:, k], loss[:, k])
        movement, _ = windows_of(W[:, k].flatten(1), loss[:, k])
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(fall), generator=generator) for _ in range(PERMUTATIONS)]
        near = [coincidence(change, fall.roll(sign * shift)) for shift in shifts for sign in (1, -1)]
        permuted = [coincidence(change, fall[order]) for order in orders]
        first = coincidence(torch.arange(len(fall), 0, -1.0), fall)
        others = [sum(near) / len(near), sum(permuted) / len(permuted), first, coincidence(movement, fall)]
        numbers.append([coincidence(change, fall), *others])
    effect, near_mean, permuted_mean, first_share, largest_share = torch.tensor(numbers, dtype=torch.float64).T
    kept = norms(W[-1]) > HALF
    level = ((shares[-1] - 0.5).abs() < LEVEL) & kept
    above = [(one > 1.01 * one[-1]).nonzero()[:, 0].tolist() for one in loss.T]
    late = [max(times, default=0) / windows for times in above]
    return {
        "drops_at_jumps": compare(
            effect,
            unit="share",
            formula=f"share of the loss's fall in the {MOST:.0%} of windows where sum_i (change of D_i)^2 is largest",
            shifted_in_time=near_mean,
            permuted_windows=permuted_mean,
            first_windows=first_share,
            largest_steps=largest_share,
        ),
        "at_one_half": compare(
            level.double().sum(-1) / kept.double().sum(-1).clamp(min=1),
            unit="share",
            formula=f"stored features that end within {LEVEL} of 1/2",
        ),
        "until_one_percent": compare(late, unit="share of training", formula="last time the loss is 1 % above its end"),
    }


def windows_of(
    course: Float[Tensor, "snapshot entry"], loss: Float[Tensor, " snapshot"]
) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
    """How much the D_i, or weights, change, and how much the loss falls, between snapshots after the first part."""
    start = max(1, round(SKIPPED * (len(course) - 1)))
    return (course[1:] - course[:-1]).square().sum(-1)[start:], (loss[:-1] - loss[1:])[start:]


def coincidence(change: Float[Tensor, " window"], fall: Float[Tensor, " window"]) -> float:
    """Share of the whole fall in the windows of most change."""
    return float(fall[most_change(change)].sum() / fall.sum())


def most_change(change: Float[Tensor, " window"]) -> Int[Tensor, " most"]:
    """Places of the windows of most change."""
    return change.argsort(descending=True)[: max(1, round(MOST * len(change)))]


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
