"""Step: how the weaker feature enters (n = 2, m = 1) when density falls in 2 % steps.

At importance r < 1 the best model changes branch: the weaker feature, min(|w1|, |w2|), jumps from nothing to a large
value between two neighbouring densities, while both branches exist on either side and their losses cross with different
slopes. At r = 1 (control) it grows without such a jump. The branch table holds the best restart of each kind, its loss
by quadrature.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.cells import exact_losses, read_exact
from replications.superposition.geometry import checked_dimensionality
from replications.superposition.grid import Best, load_grid

BRANCH = 0.3  # min(|w1|, |w2|) that separates the branch with both features from the branch with one


def measure_first_order(
    *, models: Path, exact: Path, seeds: list[int], metrics: Path, table: Path, branches: Path
) -> None:
    """Writes `metrics` (JSON), `table` (CSV, one row per importance, density and seed) and `branches` (CSV)."""
    grid = load_grid(models, "relu")
    checked_dimensionality(grid.W)
    densities, importances = grid.densities.numpy(), grid.importance[:, 1].numpy()
    weaker = np.abs(grid.best().W[..., 0, :].numpy()).min(-1)
    truth = read_exact(exact, (len(densities), len(importances)))
    exact_weaker = np.minimum(np.abs(truth["w1"]), np.abs(truth["w2"]))
    unequal, equal = int(importances.argmin()), int(importances.argmax())
    found: dict[str, Metric] = {}

    def add(name: str, values: list[float], formula: str, unit: str = "1") -> None:
        found[name] = over_seeds(values, unit=unit, formula=formula)

    sides = {row: [jump(one[:, row]) for one in weaker] for row in (unequal, equal)}
    texts = {
        "jump": "largest rise of min(|w1|, |w2|) between neighbouring densities",
        "before": "min(|w1|, |w2|) on the denser side of the largest rise",
        "after": "min(|w1|, |w2|) on the sparser side of the largest rise",
    }
    for name, text in texts.items():
        effect, null = (
            [_side(one[:, row], at, name) for one, at in zip(weaker, sides[row], strict=True)]
            for row in (unequal, equal)
        )
        add(name, effect, text)
        add(f"{name}_equal", null, f"{text}, at importance 1")
        add(f"{name}_difference", [a - b for a, b in zip(effect, null, strict=True)], "effect minus control by seed")
    middle = np.sqrt(densities[1:] * densities[:-1])
    exact_at = float(middle[jump(exact_weaker[:, unequal])])
    add("jump_density", [float(middle[at]) for at in sides[unequal]], "density of the largest rise", "density")
    add("jump_density_ratio", [float(middle[at]) / exact_at for at in sides[unequal]], "density of the rise over exact")
    write_metrics(metrics, found)

    rows = [
        [float(r), float(s), seed, weaker[k, d, j], exact_weaker[d, j]]
        for (j, r), (d, s), (k, seed) in itertools.product(
            enumerate(importances), enumerate(densities), enumerate(seeds)
        )
    ]
    frame = pd.DataFrame(rows, columns=["importance", "density", "seed", "weaker", "exact_weaker"])
    write_table(table, frame, digits=8)
    losses = np.stack(
        [
            exact_losses(
                Best(grid.W[..., k, :, :], grid.b[..., k, :], grid.loss[..., k]), densities, importances, relu=True
            )
            for k in range(grid.W.shape[3])
        ],
        axis=-1,
    )
    both = np.abs(grid.W[..., 0, :].numpy()).min(-1) > BRANCH
    kinds = [("one feature", ~both), ("both features", both)]
    rows = [
        [float(r), float(s), kind, float(losses[:, d, j][mask[:, d, j]].min()), truth["loss"][d, j]]
        for (j, r), (d, s), (kind, mask) in itertools.product(enumerate(importances), enumerate(densities), kinds)
        if mask[:, d, j].any()
    ]
    frame = pd.DataFrame(rows, columns=["importance", "density", "branch", "loss", "exact_loss"])
    write_table(branches, frame, digits=8)


def jump(weaker: Float[np.ndarray, " density"]) -> int:
    """Index k of the largest rise, between density k and the next sparser one."""
    return int(np.diff(weaker).argmax())


def _side(weaker: Float[np.ndarray, " density"], at: int, name: str) -> float:
    before, after = float(weaker[at]), float(weaker[at + 1])
    return {"jump": after - before, "before": before, "after": after}[name]


if __name__ == "__main__":
    run(measure_first_order)
