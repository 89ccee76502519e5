"""Step: compares the trained phase diagram (n = 2, m = 1) with the exact one, cell by cell and seed by seed.

Controls: the linear model, which must store one feature everywhere, and the exact grid with its cells shuffled. The
trained loss is evaluated by quadrature, so the comparison with the exact optimum holds to quadrature accuracy; a model
that beat the exact optimum would show that the optimum is none, and stops the step.
"""

import itertools
from pathlib import Path

import numpy as np

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution, over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.cells import (
    CLASSES,
    SHUFFLES,
    SUPERPOSED,
    agreement,
    candidate_class,
    classify,
    exact_losses,
    near_border,
    read_exact,
    shuffled_agreement,
)
from replications.superposition.geometry import checked_dimensionality
from replications.superposition.grid import load_grid
from replications.superposition.tables import add_restart_spread
from replications.superposition.training_settings import Judging

BEATEN = 1e-3  # relative; quadrature and optimiser errors of the exact loss are smaller


def measure_phase_diagram(
    *, models: Path, exact: Path, seeds: list[int], judging: Judging, metrics: Path, table: Path
) -> None:
    """Writes `metrics` (JSON) and `table` (CSV, one row per seed and cell). ArithmeticError if theory is beaten."""
    grids = {name: load_grid(models, name) for name in ("relu", "linear")}
    for grid in grids.values():
        checked_dimensionality(grid.W)
    densities, importances = grids["relu"].densities.numpy(), grids["relu"].importance[:, 1].numpy()
    best = {name: grid.best() for name, grid in grids.items()}
    w = {name: one.W[..., 0, :].numpy() for name, one in best.items()}
    classes = {name: classify(one, judging.stored_norm) for name, one in w.items()}
    loss = {name: exact_losses(best[name], densities, importances, relu=name == "relu") for name in best}
    truth = read_exact(exact, (len(densities), len(importances)))
    truth_class = classify(np.stack([truth["w1"], truth["w2"]], axis=-1), judging.stored_norm)
    ratio = {name: one / truth["loss"] for name, one in loss.items()}
    if (low := float(ratio["relu"].min())) < 1 - BEATEN:
        raise ArithmeticError(f"a trained model has {low:.5f} of the exact loss: the exact optimum is none")
    far = ~near_border(truth_class, densities, importances, judging.band)
    candidates = np.array([[candidate_class(r, s) for r in importances] for s in densities])

    found: dict[str, Metric] = {}

    def add(name: str, values: list[float], formula: str) -> None:
        found[name] = over_seeds(values, unit="share", formula=formula)

    def difference(name: str, effect: str, null: list[float]) -> None:
        pairs = zip(found[effect].per_seed or [], null, strict=True)
        add(name, [a - b for a, b in pairs], "effect minus control, paired by seed")

    text = "share of cells away from borders with the class of the exact optimum"
    add("class_agreement", [agreement(one, truth_class, far) for one in classes["relu"]], text)
    shuffled = np.array(
        [shuffled_agreement(one, truth_class, far, seed) for one, seed in zip(classes["relu"], seeds, strict=True)]
    )
    found["class_agreement_shuffled"] = null_distribution(
        shuffled.ravel(), unit="share", formula=f"{text}, its cells permuted {SHUFFLES} times per seed"
    )
    difference("class_agreement_minus_shuffled", "class_agreement", shuffled.mean(1).tolist())
    close = f"share of all cells with loss at most {1 + judging.loss_slack:g} times the exact optimum"
    for name, label in (("relu", "near_optimal"), ("linear", "near_optimal_linear")):
        add(label, [float((one <= 1 + judging.loss_slack).mean()) for one in ratio[name]], close)
    difference("near_optimal_minus_linear", "near_optimal", found["near_optimal_linear"].per_seed or [])
    both = f"share of cells with |w1| and |w2| above {judging.stored_norm:g}"
    for name, label in (("relu", "superposed"), ("linear", "superposed_linear")):
        add(label, [float((one == SUPERPOSED).mean()) for one in classes[name]], both)
    difference("superposed_minus_linear", "superposed", found["superposed_linear"].per_seed or [])
    add(
        "candidate_agreement",
        [agreement(one, candidates, far) for one in classes["relu"]],
        "as class_agreement, against the best of the three closed-form candidates",
    )
    share_far = float(far.mean())
    add("cells_compared", [share_far] * len(seeds), "share of cells away from borders")
    add(
        "linear_as_theory",
        [float((np.abs(one / truth["linear_loss"] - 1) <= 0.01).mean()) for one in loss["linear"]],
        "share of cells where the linear model's loss is within 1 % of v(s) min(1, r)",
    )
    add_restart_spread(found, grids["relu"].loss)
    write_metrics(metrics, found)

    rows = []
    for (k, seed), (d, s), (j, r) in itertools.product(
        enumerate(seeds), enumerate(densities.tolist()), enumerate(importances.tolist())
    ):
        at = (k, d, j)
        rows.append(
            [
                seed,
                s,
                r,
                *w["relu"][at],
                CLASSES[classes["relu"][at]],
                ratio["relu"][at],
                *w["linear"][at],
                CLASSES[classes["linear"][at]],
                ratio["linear"][at],
                truth["w1"][d, j],
                truth["w2"][d, j],
                CLASSES[truth_class[d, j]],
                truth["loss"][d, j],
                truth["candidate_loss"][d, j],
                bool(far[d, j]),
            ]
        )
    names = [
        "seed",
        "density",
        "importance",
        "w1",
        "w2",
        "class",
        "loss_ratio",
        "linear_w1",
        "linear_w2",
        "linear_class",
        "linear_loss_ratio",
        "exact_w1",
        "exact_w2",
        "exact_class",
        "exact_loss",
        "candidate_loss",
        "compared",
    ]
    write_table(table, rows, names)


if __name__ == "__main__":
    run(measure_phase_diagram)
