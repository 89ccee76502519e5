"""Step: the phase diagram, trained against exact, cell by cell; and how the second feature enters (section 3).

`phase_diagram` (n = 2, m = 1): the class of every trained cell against that of the exact optimum. Losses are integrated
by quadrature, so the comparison holds to quadrature accuracy. A model that beat the exact optimum would show that the
optimum is none, and stops the step. Controls: the linear model on the same data, the exact classes in permuted cells,
and a rule that knows no optimum. It says superposed up to some density, else the more important feature alone. Its
threshold is the one that agrees best with the exact classes on the same cells, chosen in hindsight. Cells within `band`
of a border, which is more than a step of the grid, are not compared.

`first_order`: density falls in 2 % steps. At importance r < 1 the best model changes branch: the weaker feature,
min(|w1|, |w2|), jumps from nothing to a large value between neighbouring densities. Both branches exist on either side,
and their losses cross. A course without order has a large rise somewhere, too. So a jump counts by how far it exceeds
every other step of the course, up or down. Controls: r = 1, where both features are stored at every density (there is a
step of about a quarter, where two unequally stored features become equally strong); the same models in a random order
of densities; one restart a density, drawn at random, in the place of the best.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import against_null
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.superposition.geometry import checked_dimensionality
from replications.superposition.grid import Best, Grid, load_grid
from replications.superposition.phases import CLASSES, best_density_threshold, classify, near_border
from replications.superposition.settings import Judging
from replications.superposition.tables import compare
from replications.superposition.theory import expected_loss

BEATEN = 1e-3  # relative; quadrature and optimiser errors of the exact loss are smaller
PERMUTATIONS = 100
COURSES = 100  # per seed, of the controls
BRANCH = 0.3  # min(|w1|, |w2|) that separates the branch with both features from the branch with one

ByModel = dict[str, np.ndarray]  # relu, linear and, for classes, best_density_threshold: [seed density importance]
Table = Float[np.ndarray, "density importance"]


class MeasureFiles(Files):
    phase_diagram_models: Path
    phase_diagram_exact: Path
    phase_diagram_metrics: Path
    phase_diagram_table: Path
    first_order_models: Path
    first_order_exact: Path
    first_order_metrics: Path
    first_order_table: Path
    branches: Path
    """best restart of each branch, its loss by quadrature"""


def measure_phases(files: MeasureFiles, settings: Judging, run: RunInfo) -> None:
    """Measures both parts. ArithmeticError if an exact optimum is beaten."""
    metrics, table = phase_diagram(files.phase_diagram_models, files.phase_diagram_exact, settings, run.seeds)
    write_metrics(files.phase_diagram_metrics, metrics)
    write_table(files.phase_diagram_table, table)
    grid = load_grid(files.first_order_models, "relu")
    checked_dimensionality(grid.W)
    exact = read_exact(files.first_order_exact, (len(grid.densities), len(grid.importance)))
    write_metrics(files.first_order_metrics, first_order_metrics(grid, exact))
    write_table(files.first_order_table, weaker_table(grid, exact, run.seeds), digits=8)
    write_table(files.branches, branch_table(grid, exact), digits=8)


def phase_diagram(
    models: Path, exact: Path, judging: Judging, seeds: list[int]
) -> tuple[dict[str, Metric], pd.DataFrame]:
    """Metrics and a table with one row per seed and cell."""
    grids = {name: load_grid(models, name) for name in ("relu", "linear")}
    for grid in grids.values():
        checked_dimensionality(grid.W)
    densities, importances = grids["relu"].densities.numpy(), grids["relu"].importance[:, 1].numpy()
    best = {name: grid.best() for name, grid in grids.items()}
    classes = {name: classify(one.W[..., 0, :].numpy(), judging.stored_norm) for name, one in best.items()}
    loss = {name: exact_losses(best[name], densities, importances, relu=name == "relu") for name in best}
    truth = read_exact(exact, (len(densities), len(importances)))
    truth_class = classify(np.stack([truth["w1"], truth["w2"]], axis=-1), judging.stored_norm)
    ratio = {name: one / truth["loss"] for name, one in loss.items()}
    _require_unbeaten(ratio["relu"], BEATEN)
    far = ~near_border(truth_class, densities, importances, judging.band)
    rule = best_density_threshold(truth_class, far, densities, importances)
    classes["best_density_threshold"] = np.broadcast_to(rule, classes["relu"].shape)
    metrics = diagram_metrics(classes, truth_class, ratio, far, judging, seeds)
    single = classify(grids["relu"].W[..., 0, :].numpy(), judging.stored_norm)
    metrics["single_restarts_agree"] = compare(
        [float((one == truth_class[..., None])[far].mean()) for one in single],
        unit="share",
        formula="share of cells away from borders with the class of the exact optimum, mean over single restarts",
    )
    metrics["cells_compared"] = compare(
        [float(far.mean())] * len(seeds), unit="share", formula="share of cells away from borders"
    )
    metrics["linear_as_theory"] = compare(
        [float((np.abs(one / truth["linear_loss"] - 1) <= 0.01).mean()) for one in loss["linear"]],
        unit="share",
        formula="share of cells where the linear model's loss is within 1 % of v(s) min(1, r)",
    )
    columns = {
        "class": np.array(CLASSES)[classes["relu"]],
        "linear_class": np.array(CLASSES)[classes["linear"]],
        "exact_class": np.array(CLASSES)[truth_class],
        **{"loss_ratio": ratio["relu"], "linear_loss_ratio": ratio["linear"], "compared": far},
    }
    return metrics, cell_table(columns, seeds, densities, importances)


def exact_losses(
    best: Best, densities: Float[np.ndarray, " density"], importances: Float[np.ndarray, " row"], *, relu: bool
) -> Float[np.ndarray, "seed density row"]:
    """Expected loss of trained models by quadrature, so that no sampling noise enters the comparison."""
    w, b = best.W[..., 0, :].numpy(), best.b.numpy()
    r = np.broadcast_to(importances, w.shape[:1] + importances.shape)
    columns = [expected_loss(w[:, d], b[:, d], r, float(s), relu=relu) for d, s in enumerate(densities)]
    return np.stack(columns, axis=1)


def read_exact(path: Path, shape: tuple[int, int]) -> dict[str, Float[np.ndarray, "density importance"]]:
    """Columns of the exact table as grids. UserError if the table belongs to another grid."""
    table = pd.read_csv(path)
    if len(table) != shape[0] * shape[1]:
        raise UserError(f"{path} has {len(table)} cells, the trained grid {shape[0] * shape[1]}; delete it and rerun")
    ordered = table.sort_values(["density", "importance"], ascending=[False, True])
    return {str(name): ordered[name].to_numpy().reshape(shape) for name in ordered.columns}


def _require_unbeaten(ratio: np.ndarray, tolerance: float) -> None:
    if (low := float(ratio.min())) < 1 - tolerance:
        raise ArithmeticError(f"a trained model has {low:.5f} of the exact loss: the exact optimum is none")


def diagram_metrics(
    classes: ByModel, truth: np.ndarray, ratio: ByModel, far: np.ndarray, judging: Judging, seeds: list[int]
) -> dict[str, Metric]:
    """Agreement of classes and losses with the exact optimum, for the ReLU model, beside its controls."""
    text = "share of cells away from borders with the class of the exact optimum"
    agree = {name: [float((one == truth)[far].mean()) for one in found] for name, found in classes.items()}
    null = []
    for one, seed in zip(classes["relu"], seeds, strict=True):
        generator = np.random.default_rng(seed)
        null += [float((one[far] == generator.permutation(truth[far])).mean()) for _ in range(PERMUTATIONS)]
    rule = agree["best_density_threshold"]
    effect = compare(agree["relu"], unit="share", formula=text, linear=agree["linear"], best_density_threshold=rule)
    permuted = f"{text}, its cells permuted {PERMUTATIONS} times per seed"
    near = {name: [float((one <= 1 + judging.loss_slack).mean()) for one in found] for name, found in ratio.items()}
    close = f"share of all cells with loss at most {1 + judging.loss_slack:g} times the exact optimum"
    metrics = {
        "class_agreement": against_null(effect, np.array(null), name="permuted_cells", formula=permuted),
        "near_optimal": compare(near["relu"], unit="share", formula=close, linear=near["linear"]),
    }
    for k, name in enumerate(CLASSES[1:], 1):
        region = far & (truth == k)
        at = {kind: [float((one == k)[region].mean()) for one in found] for kind, found in classes.items()}
        metrics[f"agreement_{name}"] = compare(
            at["relu"], unit="share", formula=f"{text}, cells that are {name} there", linear=at["linear"]
        )
    return metrics


def cell_table(
    columns: dict[str, np.ndarray], seeds: list[int], densities: np.ndarray, importances: np.ndarray
) -> pd.DataFrame:
    """One row per seed, density and importance; a column without a seed axis is repeated."""
    shape = (len(seeds), len(densities), len(importances))
    axes = np.meshgrid(seeds, densities, importances, indexing="ij")
    named = dict(zip(("seed", "density", "importance"), axes, strict=True)) | columns
    return pd.DataFrame({name: np.broadcast_to(value, shape).ravel() for name, value in named.items()})


def first_order_metrics(grid: Grid, exact: dict[str, Table]) -> dict[str, Metric]:
    """The largest rise of the weaker feature, and what it was on either side; control: equal importances."""
    densities, weaker = grid.densities.numpy(), weaker_feature(grid.best())
    importances = grid.importance[:, 1].numpy()
    unequal, equal = int(importances.argmin()), int(importances.argmax())
    rises = {row: [jump(one[:, row]) for one in weaker] for row in (unequal, equal)}
    sides = {
        row: np.array([[one[at, row], one[at + 1, row]] for one, at in zip(weaker, found, strict=True)]).T
        for row, found in rises.items()
    }
    middle = np.sqrt(densities[1:] * densities[:-1])
    at = [float(middle[rise]) for rise in rises[unequal]]
    exact_at = float(middle[jump(np.minimum(np.abs(exact["w1"]), np.abs(exact["w2"]))[:, unequal])])
    (before, after), (equal_before, equal_after) = sides[unequal], sides[equal]
    side = "min(|w1|, |w2|) on the {} side of the largest rise"
    alone, shuffled, single = lonely_jumps(grid, weaker[..., unequal], unequal)
    return {
        "jump": compare(
            after - before,
            unit="1",
            formula="largest rise of min(|w1|, |w2|) between neighbouring densities",
            equal_importances=equal_after - equal_before,
        ),
        "lone_jump": compare(
            alone,
            unit="1",
            formula="largest rise of min(|w1|, |w2|) less the largest of all other steps, up or down",
            equal_importances=lone_jump(weaker[..., equal]),
            permuted_densities=shuffled,
            single_restarts=single,
        ),
        "before": compare(before, unit="1", formula=side.format("denser"), equal_importances=equal_before),
        "after": compare(after, unit="1", formula=side.format("sparser"), equal_importances=equal_after),
        "jump_density": compare(at, unit="density", formula="density of the largest rise"),
        "jump_density_ratio": compare(
            [one / exact_at for one in at], unit="1", formula="density of the rise over exact"
        ),
    }


def lone_jump(weaker: Float[np.ndarray, "*course density"]) -> Float[np.ndarray, "*course"]:
    """The largest rise between neighbouring densities less the largest of all other steps, up or down."""
    steps = np.diff(weaker)
    at = steps.argmax(-1)[..., None]
    others = np.abs(steps)
    np.put_along_axis(others, at, 0.0, -1)
    found: np.ndarray = np.take_along_axis(steps, at, -1)[..., 0] - others.max(-1)
    return found


def lonely_jumps(
    grid: Grid, weaker: Float[np.ndarray, "seed density"], row: int
) -> tuple[list[float], list[float], list[float]]:
    """By seed: `lone_jump` of the best models; means of it over random orders of their densities, and over courses that
    take one restart of each density at random."""
    every = np.abs(grid.W[:, :, row, :, 0].numpy()).min(-1)
    shuffled, single = [], []
    for k in range(len(weaker)):
        generator = np.random.default_rng(k)
        orders = generator.permuted(np.tile(weaker[k], (COURSES, 1)), axis=1)
        picked = generator.integers(every.shape[2], size=(COURSES, every.shape[1]))
        drawn = np.take_along_axis(every[k].T[None], picked[:, None], 1)[:, 0]
        shuffled.append(float(lone_jump(orders).mean()))
        single.append(float(lone_jump(drawn).mean()))
    return lone_jump(weaker).tolist(), shuffled, single


def jump(weaker: Float[np.ndarray, " density"]) -> int:
    """Index k of the largest rise, between density k and the next sparser one."""
    return int(np.diff(weaker).argmax())


def weaker_feature(best: Best) -> Float[np.ndarray, "seed density importance"]:
    """min(|w1|, |w2|)."""
    return np.asarray(np.abs(best.W[..., 0, :].numpy()).min(-1))


def weaker_table(grid: Grid, exact: dict[str, Table], seeds: list[int]) -> pd.DataFrame:
    """The weaker feature, trained and exact, one row per importance, density and seed."""
    weaker, exact_weaker = weaker_feature(grid.best()), np.minimum(np.abs(exact["w1"]), np.abs(exact["w2"]))
    rows = [
        [float(r), float(s), seed, weaker[k, d, j], exact_weaker[d, j]]
        for (j, r), (d, s), (k, seed) in itertools.product(
            enumerate(grid.importance[:, 1].numpy()), enumerate(grid.densities.numpy()), enumerate(seeds)
        )
    ]
    return pd.DataFrame(rows, columns=["importance", "density", "seed", "weaker", "exact_weaker"])


def branch_table(grid: Grid, exact: dict[str, Table]) -> pd.DataFrame:
    """Loss of the best restart that stores one feature, and of the best that stores both, where there is one."""
    densities, importances = grid.densities.numpy(), grid.importance[:, 1].numpy()
    restarts = [Best(grid.W[..., k, :, :], grid.b[..., k, :], grid.loss[..., k]) for k in range(grid.W.shape[3])]
    losses = np.stack([exact_losses(one, densities, importances, relu=True) for one in restarts], axis=-1)
    both: Bool[np.ndarray, "seed density importance restart"] = np.abs(grid.W[..., 0, :].numpy()).min(-1) > BRANCH
    kinds = [("one feature", ~both), ("both features", both)]
    rows = [
        [float(r), float(s), kind, float(losses[:, d, j][mask[:, d, j]].min()), exact["loss"][d, j]]
        for (j, r), (d, s), (kind, mask) in itertools.product(enumerate(importances), enumerate(densities), kinds)
        if mask[:, d, j].any()
    ]
    return pd.DataFrame(rows, columns=["importance", "density", "branch", "loss", "exact_loss"])


if __name__ == "__main__":
    run_step(measure_phases)
