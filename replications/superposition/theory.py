"""What the smallest models (n = 2 features in m = 1 hidden unit, n = 3 in m = 2) do at best, without training them.

`expected_loss` is the paper's loss integrated by Gauss-Legendre quadrature over the four patterns of active features;
`best_model` minimises it from several starts (scipy, float64). Nothing here is shared with the code that trains models:
no sampling, no common loss function, another optimiser.

The closed forms are those behind the theory panel of the paper's phase diagram (github.com/wattenberg/superposition),
with importances 1 and r and v(s) = s/3 - s^2/4, the variance of one feature: forget the extra feature, r v(s); forget
the first one, v(s); store both as an antipodal pair, (1 + r) s^2 / 6. Antipodal beats forgetting below
s = 4r / (2 + 5r) (r <= 1) or s = 4 / (5 + 2r) (r >= 1). The true optimum is lower: it leaves these three candidates.

With a third feature the quadrature runs over eight patterns. Starts are the candidates of the paper's theory panel (the
third feature ignored, dedicated with another one dropped, antipodal to another one, dedicated with the other two
antipodal), half-open pairs, and the arrangement that the paper leaves out: all three features at 120 degrees.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

NODES = 32  # Gauss-Legendre nodes per active feature
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

THIRD_NODES = 10
TRIANGLE = [[1.0, -0.5, -0.5], [0.0, 0.87, -0.87]]
THIRD_STARTS = [  # columns of W
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
    [[1.0, 0.0, -0.6], [0.0, 1.0, 0.0]],
    [[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
    [[1.0, 0.0, 0.0], [0.0, 0.7, 0.7]],
    TRIANGLE,
]


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
    count: int = NODES,
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
    return Optimum(best.x[:2], best.x[2:], float(best.fun) * scale)


def third_quadrature(
    density: float, count: int = THIRD_NODES
) -> tuple[Float[np.ndarray, "feature node"], Float[np.ndarray, " node"]]:
    """Points and weights of the expectation over three independent features: zero, or uniform on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    one = np.append(0.0, (points + 1) / 2)
    chance = np.append(1 - density, density * weights / 2)
    grid = np.stack(np.meshgrid(one, one, one, indexing="ij")).reshape(3, -1)
    return grid, np.einsum("a,b,c->abc", chance, chance, chance).ravel()


def best_third(
    importance: float, density: float, extra: list[Float[np.ndarray, " parameter"]]
) -> tuple[Float[np.ndarray, "hidden feature"], Float[np.ndarray, " feature"], float]:
    """W, b and loss of the best model with importances (1, 1, r), scaled to about 1 for the solver."""
    x, weight = third_quadrature(density)
    scaled = np.array([1.0, 1.0, importance])[:, None] * weight / (variance(density) * min(1.0, importance))

    def loss_and_gradient(p: Float[np.ndarray, " parameter"]) -> tuple[float, Float[np.ndarray, " parameter"]]:
        W, b = p[:6].reshape(2, 3), p[6:]
        hidden = W @ x
        output = np.maximum(W.T @ hidden + b[:, None], 0.0)
        signal = 2.0 * (output - x) * scaled * (output > 0)
        gradient = hidden @ signal.T + (W @ signal) @ x.T
        return float((scaled * (output - x) ** 2).sum()), np.concatenate([gradient.ravel(), signal.sum(1)])

    starts = [np.concatenate([np.ravel(start), np.zeros(3)]) for start in THIRD_STARTS]
    options = {"ftol": 1e-10, "gtol": 1e-7, "maxiter": 300}
    found = [minimize(loss_and_gradient, one, jac=True, method="L-BFGS-B", options=options) for one in starts + extra]
    best = min(found, key=lambda one: float(one.fun))
    return best.x[:6].reshape(2, 3), best.x[6:], float(best.fun) * variance(density) * min(1.0, importance)
