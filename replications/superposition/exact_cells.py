"""Step: the best possible model of every cell (importance, density), by quadrature instead of training (`theory`).

Out: a CSV with one row per cell: w1, w2, b1, b2, the exact loss, the loss of the best closed-form candidate, and
the exact loss of the linear model, v(s) min(1, r).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import run, track
from common.files import write_text
from replications.superposition.axes import spaced
from replications.superposition.theory import antipodal, best_model, forget_extra, forget_first
from replications.superposition.training_settings import Span


def exact_cells(*, importances: Span, densities: Span, out: Path) -> None:
    """Solves every cell and writes `out`. Each cell also starts from the solution of its denser neighbour."""
    rows = []
    for r in track(spaced(importances), "solving importances"):
        before = None
        for s in spaced(densities):
            best = best_model(r, s, before)
            before = np.concatenate([best.w, best.b])[None]
            candidates = min(forget_extra(r, s), forget_first(s), antipodal(r, s))
            linear = min(forget_extra(r, s), forget_first(s))
            rows.append([r, s, *best.w, *best.b, best.loss, candidates, linear])
    names = ["importance", "density", "w1", "w2", "b1", "b2", "loss", "candidate_loss", "linear_loss"]
    write_text(out, pd.DataFrame(rows, columns=names).to_csv(index=False, float_format="%.10g", lineterminator="\n"))


if __name__ == "__main__":
    run(exact_cells)
