"""What an SAE must be compared with at equal L0: other ways to write an activation with few numbers.

- `pca-k`: the k leading principal components of the training activations (dense directions, L0 = k).
- `random-k`: the k largest coefficients of an untrained dictionary, with the one factor that fits training data best.
- `neurons-k`: the k coordinates of the residual stream farthest from their mean, exactly.
- `mean`, `zero`: nothing at all.

The trained control, rows that stay near their random start, is an SAE and comes from the sweep.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.architectures.base import random_rows
from common.saes.metrics import principal

AT_ONCE = 3072  # activations: 4608 latents of each take less than 64 MB, above which memory is mapped anew
PCA_SAMPLE = 65_536  # training activations
Reconstruct = Callable[[Float[Tensor, "*n d"]], Float[Tensor, "*n d"]]


class Baseline(NamedTuple):
    """`l0` numbers per token."""

    name: str
    kind: str
    l0: float
    reconstruct: Reconstruct


def baselines(train: Float[Tensor, "token d"], sparsities: list[int], width: int, more: list[int]) -> list[Baseline]:
    """All baselines; `more` are further numbers of principal components."""
    mean, axes = principal(train)
    found = [
        Baseline("mean", "mean", 0.0, lambda x: mean.expand_as(x)),
        Baseline("zero", "zero", 0.0, torch.zeros_like),
    ]
    rows = random_rows(width, train.shape[1], torch.Generator().manual_seed(0))
    for k in sorted({*sparsities, *more}):
        found.append(Baseline(f"pca-{k}", "pca", float(k), components(mean, axes[:, :k])))
    for k in sparsities:
        found.append(Baseline(f"random-{k}", "random", float(k), untrained(train[:4096], mean, rows, k)))
        found.append(Baseline(f"neurons-{k}", "neurons", float(k), coordinates(mean, k)))
    return found


def components(mean: Float[Tensor, " d"], axes: Float[Tensor, "d r"]) -> Reconstruct:
    """Projection onto principal directions."""
    return lambda x: (x - mean) @ axes @ axes.mT + mean


def coordinates(mean: Float[Tensor, " d"], k: int) -> Reconstruct:
    """Keeps the k largest deviations from the mean."""

    def reconstruct(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        apart = x - mean
        kept = apart.abs().topk(k, dim=-1).indices
        return mean + torch.zeros_like(x).scatter(-1, kept, apart.gather(-1, kept))

    return reconstruct


def untrained_code(
    mean: Float[Tensor, " d"], rows: Float[Tensor, "d_sae d"], k: int
) -> Callable[[Float[Tensor, "*n d"]], Float[Tensor, "*n d_sae"]]:
    """The k largest coefficients of random directions, as an untrained TopK SAE would have them."""

    def code(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_sae"]:
        values, latents = ((x - mean) @ rows.mT).topk(k, dim=-1)
        return torch.zeros(*x.shape[:-1], len(rows)).scatter(-1, latents, values.relu())

    return code


def untrained(
    train: Float[Tensor, "token d"], mean: Float[Tensor, " d"], rows: Float[Tensor, "d_sae d"], k: int
) -> Reconstruct:
    """What an untrained dictionary makes of its k largest coefficients, rescaled by 1 / gamma on training data."""
    code = untrained_code(mean, rows, k)
    found = code(train) @ rows
    factor = float((found * (train - mean)).sum() / found.square().sum())
    return lambda x: mean + factor * (code(x) @ rows)
