"""Step: what two features in one hidden unit (n = 2, m = 1) do at best in every cell, by quadrature, not by training.

`expected_loss` is the paper's loss integrated by Gauss-Legendre quadrature over the four patterns of active features;
`best_model` minimises it from several starts (scipy, float64). Nothing here is shared with the code that trains models:
no sampling, no common loss function, another optimiser.

The closed forms are those behind the theory panel of the paper's phase diagram (github.com/wattenberg/superposition).
Importances are 1 and r, and v(s) = s/3 - s^2/4 is the variance of one feature. To forget the extra feature costs r
v(s), to forget the first one v(s). To store both as an antipodal pair costs (1 + r) s^2 / 6. Antipodal beats forgetting
below s = 4r / (2 + 5r) (r <= 1) or s = 4 / (5 + 2r) (r >= 1). The true optimum is lower: it leaves these three
candidates.

Out: a CSV with one row per cell, its weights and biases, the exact loss, and that of the linear model, v(s) min(1, r).
Each cell also starts from the solution of its denser neighbour. A cell of importance r > 1 is the cell of 1 / r with
the features exchanged and the loss r times as large. Columns that mirror each other are solved once.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from common.core.step import Files, run_step, track
from common.core.tables import write_table
from replications.superposition.grid import values_of
from replications.superposition.settings import CellTraining, Densities, Span

NODES = 32  # Gauss-Legendre nodes per active feature
SEARCH_NODES = 20  # with which the optimum is found; its loss is then integrated with `NODES`
STARTS = np.array(
    [  # w1, w2, b1, b2: the three candidates, a half-open antipodal pair either way, and both features as one
        [1.0, 0.0, 0.0, 0.2],
        [0.0, 1.0, 0.2, 0.0],
        [1.0, -1.0, 0.0, 0.0],
        [1.0, -0.6, 0.0, 0.1],
        [-0.6, 1.0, 0.1, 0.0],
        [0.7, 0.7, 0.0, 0.0],
    ]
)
COLUMNS = ["importance", "density", "w1", "w2", "b1", "b2", "loss", "linear_loss"]


class Optimum(NamedTuple):
    """The best model of one cell: weights and biases of the two features, and its expected loss."""

    w: Float[np.ndarray, "2"]
    b: Float[np.ndarray, "2"]
    loss: float


def variance(density: float) -> float:
    """v(s): variance of a feature that is active with probability s and then uniform on [0, 1]."""
    return density / 3.0 - density**2 / 4.0


def forget_extra(importance: float, density: float) -> float:
    """Loss when the first feature is stored alone."""
    return importance * variance(density)


def forget_first(density: float) -> float:
    """Loss when the extra feature is stored alone."""
    return variance(density)


def antipodal(importance: float, density: float) -> float:
    """Loss of w = (1, -1), b = 0: wrong only when both features are active."""
    return (1.0 + importance) * density**2 / 6.0


def border(importance: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " cell"]:
    """Density below which the antipodal pair beats forgetting the less important feature."""
    return np.where(importance <= 1.0, 4.0 * importance / (2.0 + 5.0 * importance), 4.0 / (5.0 + 2.0 * importance))


@cache
def _nodes(count: int) -> tuple[Float[np.ndarray, "node 2"], Float[np.ndarray, "4 node"]]:
    """Points (x1, x2), and the weight of each under the patterns none, first, second and both active."""
    points, weights = np.polynomial.legendre.leggauss(count)
    x, w = (points + 1.0) / 2.0, weights / 2.0
    zero = np.zeros_like(x)
    first, second = np.meshgrid(x, x, indexing="ij")
    both = np.stack([first.ravel(), second.ravel()], axis=1)
    values = np.concatenate([np.zeros((1, 2)), np.stack([x, zero], 1), np.stack([zero, x], 1), both])
    pieces = [np.ones(1), w, w, np.outer(w, w).ravel()]
    table = np.zeros((4, len(values)))
    start = 0
    for pattern, piece in enumerate(pieces):
        table[pattern, start : start + len(piece)] = piece
        start += len(piece)
    return values, table


def quadrature(density: float, count: int = NODES) -> tuple[Float[np.ndarray, "node 2"], Float[np.ndarray, " node"]]:
    """Nodes and weights of the expectation over two independent features of this density."""
    values, table = _nodes(count)
    s = density
    return values, np.array([(1 - s) ** 2, s * (1 - s), s * (1 - s), s * s]) @ table


def expected_loss(
    w: Float[np.ndarray, "*batch 2"],
    b: Float[np.ndarray, "*batch 2"],
    importance: Float[np.ndarray, "*batch"],
    density: float,
    *,
    relu: bool = True,
    count: int = NODES,
) -> Float[np.ndarray, "*batch"]:
    """E[(x_1 - x'_1)^2 + r (x_2 - x'_2)^2] for x' = f(w (w . x) + b), each model with its own importance r."""
    x, weight = quadrature(density, count)
    output = (w @ x.T)[..., None, :] * w[..., None] + b[..., None]
    error = x.T - (np.maximum(output, 0.0) if relu else output)
    first, second = np.moveaxis((error**2) @ weight, -1, 0)
    return np.asarray(first + importance * second)


def best_model(
    importance: float,
    density: float,
    extra_starts: Float[np.ndarray, "start 4"] | None = None,
    count: int = SEARCH_NODES,
) -> Optimum:
    """The ReLU model of least expected loss, by L-BFGS from several starts. Ties keep the earlier start.

    The loss is scaled to about 1 first: at small densities it is far below the solver's absolute tolerances.
    """
    x, weight = quadrature(density, count)
    scale = min(forget_extra(importance, density), forget_first(density), antipodal(importance, density))
    x1, x2 = np.ascontiguousarray(x[:, 0]), np.ascontiguousarray(x[:, 1])

    def loss_and_gradient(p: Float[np.ndarray, "4"]) -> tuple[float, Float[np.ndarray, "4"]]:
        hidden = p[0] * x1 + p[1] * x2
        first, second = np.maximum(p[0] * hidden + p[2], 0.0), np.maximum(p[1] * hidden + p[3], 0.0)
        error1, error2 = first - x1, second - x2
        pull1 = 2.0 * weight * error1 * (first > 0)
        pull2 = 2.0 * importance * weight * error2 * (second > 0)
        back = p[0] * pull1 + p[1] * pull2
        gradient = [pull1 @ hidden + back @ x1, pull2 @ hidden + back @ x2, pull1.sum(), pull2.sum()]
        return float(weight @ (error1**2 + importance * error2**2)) / scale, np.array(gradient) / scale

    starts = STARTS if extra_starts is None else np.concatenate([STARTS, extra_starts])
    options = {"ftol": 1e-12, "gtol": 1e-8}
    runs = [minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options) for start in starts]
    best = min(runs, key=lambda run: float(run.fun))
    w, b = best.x[:2], best.x[2:]
    return Optimum(w, b, float(expected_loss(w, b, np.asarray(importance), density)))


class ExactFiles(Files):
    exact: Path


def exact(files: ExactFiles, settings: CellTraining) -> None:
    """Solves every cell of the grid that is trained."""
    write_table(files.exact, solve(settings.importances, settings.densities), COLUMNS, digits=10)


def solve(importances: Span, densities: Densities) -> list[list[float]]:
    """Rows of `COLUMNS`."""
    rows, solved = [], dict[str, list[Optimum]]()
    for r in track(values_of(importances), "solving importances"):
        column = solved.setdefault(f"{min(r, 1 / r):.9g}", [])
        for k, s in enumerate(values_of(densities)):
            if k == len(column):
                before = np.concatenate([column[-1].w, column[-1].b])[None] if column else None
                column.append(best_model(min(r, 1 / r), s, before))
            best = column[k] if r <= 1 else mirrored(column[k], r)
            rows.append([r, s, *best.w, *best.b, best.loss, min(forget_extra(r, s), forget_first(s))])
    return rows


def mirrored(best: Optimum, importance: float) -> Optimum:
    """The optimum for `importance`, from that for its inverse."""
    return Optimum(best.w[::-1], best.b[::-1], best.loss * importance)


if __name__ == "__main__":
    run_step(exact)
