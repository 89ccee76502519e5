"""Step: the best possible model of every cell (importance, density), by quadrature instead of training (`theory`).

Out: a CSV with one row per cell: w1, w2, b1, b2, the exact loss, the loss of the best closed-form candidate, and
the exact loss of the linear model, v(s) min(1, r).

A cell of importance r > 1 is the cell of 1 / r with the two features exchanged and the loss r times as large; columns
that mirror each other are solved once.
"""

from pathlib import Path

import numpy as np

from common.core.step import run, track
from common.core.tables import write_table
from replications.superposition.axes import spaced
from replications.superposition.theory import Optimum, antipodal, best_model, forget_extra, forget_first
from replications.superposition.training_settings import Span


def exact_cells(*, importances: Span, densities: Span, out: Path) -> None:
    """Solves every cell and writes `out`. Each cell also starts from the solution of its denser neighbour."""
    rows, solved = [], dict[str, list[Optimum]]()
    for r in track(spaced(importances), "solving importances"):
        column = solved.setdefault(f"{min(r, 1 / r):.9g}", [])
        for k, s in enumerate(spaced(densities)):
            if k == len(column):
                before = np.concatenate([column[-1].w, column[-1].b])[None] if column else None
                column.append(best_model(min(r, 1 / r), s, before))
            best = column[k] if r <= 1 else mirrored(column[k], r)
            candidates = min(forget_extra(r, s), forget_first(s), antipodal(r, s))
            linear = min(forget_extra(r, s), forget_first(s))
            rows.append([r, s, *best.w, *best.b, best.loss, candidates, linear])
    names = ["importance", "density", "w1", "w2", "b1", "b2", "loss", "candidate_loss", "linear_loss"]
    write_table(out, rows, names, digits=10)


def mirrored(best: Optimum, importance: float) -> Optimum:
    """The optimum for `importance`, from that for its inverse."""
    return Optimum(best.w[::-1], best.b[::-1], best.loss * importance)


if __name__ == "__main__":
    run(exact_cells)
