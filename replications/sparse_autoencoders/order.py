"""Does FVU fall with the number of latents, and with the number of active ones? (Gao et al. 2024.)

Each pair of widths at one k is one comparison, and each pair of k at one width; the metric is the share of comparisons
in which the larger explains more, with an interval from resampled documents. The null shuffles the labels within each
column of the grid. The slope is that of log2 FVU per doubling of the width, pooled over k.
"""

import itertools

import numpy as np
from jaxtyping import Float, Int

from common.core.metrics import Metric, Uncertainty
from common.core.statistics import from_draws, null_distribution, with_control

DRAWS = 1000
Sums = tuple[Float[np.ndarray, " token"], Float[np.ndarray, " token"]]


def resampled(
    sums: list[list[Sums]], documents: Int[np.ndarray, " token"], seed: int = 0
) -> Float[np.ndarray, "draw width k"]:
    """FVU of the whole grid, first as it is, then for resampled documents (the same ones for every cell)."""
    _, index = np.unique(documents, return_inverse=True)
    n = int(index.max()) + 1
    above, below = (
        np.array([[np.bincount(index, weights=cell[part], minlength=n) for cell in row] for row in sums])
        for part in (0, 1)
    )
    chosen = np.random.default_rng(seed).integers(0, n, size=(DRAWS, n))
    picks = np.concatenate([np.ones((1, n)), np.stack([np.bincount(one, minlength=n) for one in chosen])])
    above, below = (np.einsum("dn,wkn->dwk", picks, part) for part in (above, below))
    found: Float[np.ndarray, "draw width k"] = above / below
    return found


def falling(grid: Float[np.ndarray, "*draw size column"]) -> Float[np.ndarray, "*draw"]:
    """Share of pairs of sizes, over all columns, in which the larger has the smaller FVU."""
    pairs = list(itertools.combinations(range(grid.shape[-2]), 2))
    lower = np.stack([grid[..., large, :] < grid[..., small, :] for small, large in pairs])
    return np.asarray(lower.mean(axis=(0, -1)))


def shuffled(grid: Float[np.ndarray, "size column"], seed: int = 0) -> Float[np.ndarray, "draw size column"]:
    """Labels permuted within each column."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permuted(grid, axis=0) for _ in range(DRAWS)])


def slope(grid: Float[np.ndarray, "*draw width k"], widths: list[int]) -> Float[np.ndarray, "*draw"]:
    """Least-squares slope of log2 FVU over log2 width, mean over k."""
    x = np.log2(np.asarray(widths, dtype=np.float64))
    x = x - x.mean()
    return np.asarray((x[:, None] * np.log2(grid)).sum(-2).mean(-1) / (x**2).sum())


def order_metrics(sums: list[list[Sums]], documents: Int[np.ndarray, " token"], widths: list[int]) -> dict[str, Metric]:
    """Both orders and the slope; `sums` holds numerators and denominators of FVU per token, [width][k]."""
    grid = resampled(sums, documents)
    found: dict[str, Metric] = {}
    count = len(np.unique(documents))
    resamples = Uncertainty(unit="documents", count=count)
    for name, turned in (("width", grid), ("sparsity", grid.swapaxes(1, 2))):
        draws, null = falling(turned), falling(shuffled(turned[0]))
        formula = f"share of pairs of {'widths' if name == 'width' else 'k'} in which the larger has the smaller fvu"
        effect = from_draws(float(draws[0]), draws[1:], n=count, unit="share", formula=formula, uncertainty=resamples)
        control = null_distribution(null, unit="share", formula=formula + ", labels shuffled")
        gap = from_draws(
            float(draws[0] - np.median(null)), draws[1:] - null, n=len(null), unit="share", formula=formula
        )
        found[f"{name}_order"] = with_control(effect, "shuffled_labels", control, gap)
    slopes, formula = slope(grid, widths), "slope of log2 fvu, mean over k"
    found["width_slope"] = from_draws(
        float(slopes[0]), slopes[1:], n=count, unit="log2 per doubling", formula=formula, uncertainty=resamples
    )
    return found
