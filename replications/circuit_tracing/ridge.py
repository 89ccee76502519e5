"""Ridge regression, sparse inputs included, with its strength chosen on rows that it was not fitted on."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, issparse
from torch import Tensor

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Times the mean of the Gram matrix's diagonal"""
FITTED = 0.8  # of the rows, the first ones; the strength is chosen on the others


def ridge(
    x: csr_array | Float[np.ndarray, "row feature"],
    y: Float[np.ndarray, "row target"],
    strengths: Sequence[float] = STRENGTHS,
) -> Float[Tensor, "feature target"]:
    """Weights without a constant, in float64; of several strengths the one with the least error on the last rows."""
    if len(strengths) > 1:
        cut = round(FITTED * len(y))
        weights = _solved(x[:cut], y[:cut], strengths)
        errors = [float(np.square(y[cut:] - x[cut:] @ one.numpy()).sum()) for one in weights]
        strengths = [strengths[int(np.argmin(errors))]]
    return _solved(x, y, strengths)[0]


def _solved(
    x: csr_array | Float[np.ndarray, "row feature"], y: Float[np.ndarray, "row target"], strengths: Sequence[float]
) -> list[Float[Tensor, "feature target"]]:
    product = x.T @ x
    gram = torch.tensor(product.toarray() if issparse(product) else product)
    right, size = torch.tensor(x.T @ y), gram.diagonal().mean()
    eye = torch.eye(len(gram), dtype=torch.float64)
    return [torch.linalg.solve(gram + one * size * eye, right) for one in strengths]
