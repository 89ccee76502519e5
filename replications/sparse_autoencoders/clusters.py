"""Dictionaries that need no SAE: unit centres of clusters of the data by direction, read by matching pursuit.

Gain-shape k-means (Coates and Ng 2012, Learning Feature Representations with K-means, section 2). Each sample goes to
the centre c with the largest x . c, and a centre becomes the direction of the sum of its samples, each weighed by that
value. Samples of negative value count for none, and a centre without samples stays where it is. Clusters know nothing
of sparse sums. So what a trained dictionary does no better than they do owes nothing to its training.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.sae import About, Sae
from replications.sparse_autoencoders.baselines import AT_ONCE, Baseline

PASSES = 10
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


def of_clusters(train: Float[Tensor, "token d"], width: int, k: int) -> Sae:
    """As many clusters as an SAE has latents, or as there are samples."""
    train, middle = train[:SAMPLES], train.mean(0)
    return pursuit(centres(train - middle, min(width, len(train))), middle, k)


def baselines_of_clusters(train: Float[Tensor, "token d"], width: int, sparsities: list[int]) -> list[Baseline]:
    """The same clusters with each number of rounds."""
    one = of_clusters(train, width, max(sparsities))
    return [Baseline(f"clusters-{k}", "clusters", float(k), replace(one, k=k).reconstruct) for k in sparsities]
