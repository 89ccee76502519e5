"""How dictionaries relate: latents that split in a wider dictionary, latents that recur in another network.

Bricken et al. 2023, sections "Feature splitting" and "Universality".
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.metrics import cosines
from replications.monosemanticity.explain import means
from replications.monosemanticity.held_out import HeldOut

INSIDE = 0.5  # least share of the firings of a child at which its parent fires
OVERLAP = 0.5  # children that share as many of their tokens or more are one child (Jaccard)


class Family(NamedTuple):
    """For each latent of one dictionary its parent in the narrow one, and whether it is a child of that."""

    parent: Int[Tensor, " latent"]
    cosine: Float[Tensor, " latent"]
    inside: Float[Tensor, " latent"]
    """share of its firings at which the parent fires too"""

    def children(self) -> Bool[Tensor, " latent"]:
        """Latents that mostly fire where their parent fires."""
        return self.inside >= INSIDE


def family(
    rows: Float[Tensor, "latent d_mlp"],
    fires: Bool[Tensor, "token latent"],
    narrow_rows: Float[Tensor, "narrow d_mlp"],
    narrow_fires: Bool[Tensor, "token narrow"],
) -> Family:
    """Parents are chosen by the decoder alone: firings then say whether the choice means anything."""
    cosine, parent = cosines(rows, narrow_rows).max(1)
    both = (fires.float().mT @ narrow_fires.float()).gather(1, parent[:, None])[:, 0]
    return Family(parent, cosine, both / fires.sum(0).clamp(min=1))


def split_share(found: Family, alive: Bool[Tensor, " latent"], narrow_alive: Bool[Tensor, " narrow"]) -> float:
    """Share of living narrow latents with two or more living children."""
    counts = torch.bincount(found.parent[found.children() & alive], minlength=len(narrow_alive))
    return float((counts[narrow_alive] >= 2).double().mean())


def distinct_share(
    found: Family,
    alive: Bool[Tensor, " latent"],
    narrow_alive: Bool[Tensor, " narrow"],
    fires: Bool[Tensor, "token latent"],
) -> float:
    """The same where two of the children fire on different tokens: copies of one latent are no split."""
    kept, split = found.children() & alive, []
    for parent in narrow_alive.nonzero()[:, 0].tolist():
        own = fires[:, kept & (found.parent == parent)].float()
        both = own.mT @ own
        either = own.sum(0)[:, None] + own.sum(0) - both
        split.append(bool((both < OVERLAP * either).any()))
    return sum(split) / max(1, len(split))


def best_correlations(one: Float[Tensor, "token unit"], other: Float[Tensor, "token unit2"]) -> Float[Tensor, " unit"]:
    """For each unit of `one` its largest correlation with a unit of `other`; constant units have correlation 0."""
    a, b = (_standard(x) for x in (one, other))
    return (a.mT @ b / len(a)).amax(1)


def beyond_token(x: Float[Tensor, "token unit"], text: HeldOut) -> Float[Tensor, "token unit"]:
    """Activations on the judged tokens without their mean at each present token."""
    token = text.token[text.scored]
    return x - means(x, token, int(token.max()) + 1)[token]


def _standard(x: Float[Tensor, "token unit"]) -> Float[Tensor, "token unit"]:
    apart = x - x.mean(0)
    return apart / apart.square().mean(0).sqrt().clamp(min=1e-6)
