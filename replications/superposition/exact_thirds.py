"""Step: the best possible model of every cell of the n = 3, m = 2 phase diagram, by quadrature instead of training.

The expected loss of three independent features is integrated by Gauss-Legendre quadrature over the eight patterns of
active features and minimised by scipy from several starts (float64); nothing is shared with the code that trains.
Starts: the candidates of the paper's theory panel (the third feature ignored, dedicated with another one dropped,
antipodal to another one, dedicated with the other two antipodal), half-open pairs, the solution of the denser
neighbour, and the arrangement that the paper leaves out, all three features at 120 degrees.

Out: a CSV with one row per cell: the norms of the columns, whether a pair is antipodal, the exact loss, the loss of
the best closed-form candidate, and that of the linear model.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize

from common.core.step import run, track
from common.core.tables import write_table
from replications.superposition.axes import spaced
from replications.superposition.theory import variance
from replications.superposition.training_settings import Span

NODES = 10
HIDDEN, FEATURES = 2, 3
TRIANGLE = [[1.0, -0.5, -0.5], [0.0, 0.87, -0.87]]
STARTS = [  # columns of W
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
    [[1.0, 0.0, -0.6], [0.0, 1.0, 0.0]],
    [[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
    [[1.0, 0.0, 0.0], [0.0, 0.7, 0.7]],
    TRIANGLE,
]


def exact_thirds(*, importances: Span, densities: Span, out: Path) -> None:
    """Solves every cell and writes `out`."""
    rows = []
    for r in track(spaced(importances), "solving importances"):
        before: list[Float[np.ndarray, " parameter"]] = []
        for s in spaced(densities):
            W, b, loss = best_third(r, s, before)
            before = [np.concatenate([W.ravel(), b])]
            v, norms = variance(s), np.linalg.norm(W, axis=0)
            linear = min(r, 1.0) * v
            candidates = min(linear, (1 + r) * s * s / 6, s * s / 3)
            rows.append([r, s, *norms, *W.ravel(), *b, loss, candidates, linear])
    names = ["importance", "density", "norm1", "norm2", "norm3"]
    names += [f"w{h}{i}" for h in range(1, 3) for i in range(1, 4)] + ["b1", "b2", "b3"]
    frame = pd.DataFrame(rows, columns=[*names, "loss", "candidate_loss", "linear_loss"])
    write_table(out, frame, digits=10)


def nodes(density: float, count: int = NODES) -> tuple[Float[np.ndarray, "feature node"], Float[np.ndarray, " node"]]:
    """Points and weights of the expectation over three independent features: zero, or uniform on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    one = np.append(0.0, (points + 1) / 2)
    chance = np.append(1 - density, density * weights / 2)
    grid = np.stack(np.meshgrid(one, one, one, indexing="ij")).reshape(FEATURES, -1)
    return grid, np.einsum("a,b,c->abc", chance, chance, chance).ravel()


def best_third(
    importance: float, density: float, extra: list[Float[np.ndarray, " parameter"]]
) -> tuple[Float[np.ndarray, "hidden feature"], Float[np.ndarray, " feature"], float]:
    """W, b and loss of the best model with importances (1, 1, r), scaled to about 1 for the solver."""
    x, weight = nodes(density)
    scaled = np.array([1.0, 1.0, importance])[:, None] * weight / (variance(density) * min(1.0, importance))

    def loss_and_gradient(p: Float[np.ndarray, " parameter"]) -> tuple[float, Float[np.ndarray, " parameter"]]:
        W, b = p[:6].reshape(HIDDEN, FEATURES), p[6:]
        hidden = W @ x
        output = np.maximum(W.T @ hidden + b[:, None], 0.0)
        signal = 2.0 * (output - x) * scaled * (output > 0)
        gradient = hidden @ signal.T + (W @ signal) @ x.T
        return float((scaled * (output - x) ** 2).sum()), np.concatenate([gradient.ravel(), signal.sum(1)])

    starts = [np.concatenate([np.ravel(start), np.zeros(FEATURES)]) for start in STARTS]
    options = {"ftol": 1e-10, "gtol": 1e-7, "maxiter": 300}
    found = [minimize(loss_and_gradient, one, jac=True, method="L-BFGS-B", options=options) for one in starts + extra]
    best = min(found, key=lambda one: float(one.fun))
    return best.x[:6].reshape(HIDDEN, FEATURES), best.x[6:], float(best.fun) * variance(density) * min(1.0, importance)


if __name__ == "__main__":
    run(exact_thirds)
