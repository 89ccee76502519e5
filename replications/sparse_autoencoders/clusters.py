"""Dictionaries that need no SAE: unit centres of clusters of the data by direction, read by matching pursuit.

Gain-shape k-means (Coates and Ng 2012, Learning Feature Representations with K-means, section 2). Each sample goes to
the centre c with the largest x . c, and a centre becomes the direction of the sum of its samples, each weighed by that
value. Samples of negative value count for none, and a centre without samples stays where it is. Clusters know nothing
of sparse sums. So what a trained dictionary does no better than they do owes nothing to its training.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.sae import About, Sae
from replications.sparse_autoencoders.baselines import AT_ONCE, Baseline

PASSES = 10
CACHED = 256  # activations whose products with 4608 rows stay in the cache
SAMPLES = 40_960  # training samples that are clustered; SynthSAEBench's world has a number of its own


def centres(x: Float[Tensor, "sample d"], count: int, passes: int = PASSES) -> Float[Tensor, "centre d"]:
    """Unit rows; they start as the directions of the first `count` samples. ValueError if there are fewer."""
    if len(x) < count:
        raise ValueError(f"{count} clusters need as many samples, not {len(x)}")
    rows = torch.nn.functional.normalize(x[:count])
    for _ in range(passes):
        sums = torch.zeros_like(rows)
        for part in torch.split(x, AT_ONCE):
            value, nearest = (part @ rows.mT).max(1)
            sums.index_add_(0, nearest, part * value.relu()[:, None])
        empty = sums.norm(dim=1, keepdim=True) == 0
        rows = torch.where(empty, rows, torch.nn.functional.normalize(sums))
    return rows


def pursuit(rows: Float[Tensor, "d_sae d"], middle: Float[Tensor, " d"], k: int) -> Sae:
    """A dictionary of these unit rows that writes x - middle in k rounds of matching pursuit."""
    none = torch.zeros(len(rows))
    return Sae(About("matching_pursuit", sparsity=float(k)), "matching_pursuit", rows.mT, none, rows, middle, k=k)


class Pursuit(NamedTuple):
    """Matching pursuit as `pursuit` reads rows, for many of them: products with what is left follow from those of the
    rows with each other, so that a round costs one row of these instead of a product with all rows."""

    rows: Float[Tensor, "d_sae d"]
    products: Float[Tensor, "d_sae d_sae"]
    middle: Float[Tensor, " d"]
    k: int

    def encode(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_sae"]:
        found = [self._pursue(part) for part in torch.split(x.reshape(-1, x.shape[-1]), CACHED)]
        return torch.cat(found).reshape(*x.shape[:-1], -1)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return self.encode(x) @ self.rows + self.middle

    def _pursue(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d_sae"]:
        left = (x - self.middle) @ self.rows.mT
        latents = torch.zeros_like(left)
        for _ in range(self.k):
            value, best = left.max(1, keepdim=True)
            value = value.relu()
            latents.scatter_add_(1, best, value)
            left -= self.products[best[:, 0]].mul_(value)
        return latents


def by_pursuit(rows: Float[Tensor, "d_sae d"], middle: Float[Tensor, " d"], k: int) -> Pursuit:
    """For unit rows."""
    return Pursuit(rows, rows @ rows.mT, middle, k)


def of_clusters(train: Float[Tensor, "token d"], width: int, k: int) -> Pursuit:
    """As many clusters as an SAE has latents, or as there are samples."""
    train = train[:SAMPLES]
    middle = train.mean(0)
    return by_pursuit(centres(train - middle, min(width, len(train))), middle, k)


def baselines_of_clusters(train: Float[Tensor, "token d"], width: int, sparsities: list[int]) -> list[Baseline]:
    """The same clusters with each number of rounds."""
    one = of_clusters(train, width, max(sparsities))
    return [Baseline(f"clusters-{k}", "clusters", float(k), one._replace(k=k).reconstruct) for k in sparsities]
