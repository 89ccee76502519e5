"""Step: the best possible model of every cell (importance, density), by quadrature instead of training (`theory`).

Two features in one hidden unit, or three in two. Out: a CSV with one row per cell, its weights and biases, the exact
loss, the loss of the best closed-form candidate, and that of the linear model, v(s) min(1, r). Each cell also starts
from the solution of its denser neighbour. With two features, a cell of importance r > 1 is the cell of 1 / r with the
features exchanged and the loss r times as large; columns that mirror each other are solved once.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from common.core.step import Files, run_step, track
from common.core.tables import write_table
from replications.superposition.cells import spaced
from replications.superposition.settings import CellTraining, Densities, Span
from replications.superposition.theory import (
    Optimum,
    antipodal,
    best_model,
    best_third,
    forget_extra,
    forget_first,
    variance,
)

PAIR_COLUMNS = ["importance", "density", "w1", "w2", "b1", "b2", "loss", "candidate_loss", "linear_loss"]
THIRD_COLUMNS = ["importance", "density", "norm1", "norm2", "norm3"]
THIRD_COLUMNS += [f"w{h}{i}" for h in range(1, 3) for i in range(1, 4)] + ["b1", "b2", "b3"]
THIRD_COLUMNS += ["loss", "candidate_loss", "linear_loss"]


class ExactFiles(Files):
    exact: Path


def exact(files: ExactFiles, settings: CellTraining) -> None:
    """Solves every cell of the grid that is trained."""
    if settings.n_hidden == 1:
        rows, names = solve_pairs(settings.importances, settings.densities), PAIR_COLUMNS
    else:
        rows, names = solve_thirds(settings.importances, settings.densities), THIRD_COLUMNS
    write_table(files.exact, rows, names, digits=10)


def solve_pairs(importances: Span, densities: Densities) -> list[list[float]]:
    """Rows of `PAIR_COLUMNS`."""
    rows, solved = [], dict[str, list[Optimum]]()
    for r in track(spaced(importances), "solving importances"):
        column = solved.setdefault(f"{min(r, 1 / r):.9g}", [])
        for k, s in enumerate(spaced(densities)):
            if k == len(column):
                before = np.concatenate([column[-1].w, column[-1].b])[None] if column else None
                column.append(best_model(min(r, 1 / r), s, before))
            best = column[k] if r <= 1 else mirrored(column[k], r)
            linear = min(forget_extra(r, s), forget_first(s))
            rows.append([r, s, *best.w, *best.b, best.loss, min(linear, antipodal(r, s)), linear])
    return rows


def mirrored(best: Optimum, importance: float) -> Optimum:
    """The optimum for `importance`, from that for its inverse."""
    return Optimum(best.w[::-1], best.b[::-1], best.loss * importance)


def solve_thirds(importances: Span, densities: Densities) -> list[list[float]]:
    """Rows of `THIRD_COLUMNS`."""
    rows = []
    for r in track(spaced(importances), "solving importances"):
        before: list[Float[np.ndarray, " parameter"]] = []
        for s in spaced(densities):
            W, b, loss = best_third(r, s, before)
            before = [np.concatenate([W.ravel(), b])]
            linear = min(r, 1.0) * variance(s)
            candidates = min(linear, (1 + r) * s * s / 6, s * s / 3)
            rows.append([r, s, *np.linalg.norm(W, axis=0), *W.ravel(), *b, loss, candidates, linear])
    return rows


if __name__ == "__main__":
    run_step(exact)
