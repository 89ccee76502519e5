"""What latents mean beyond single tokens: their logit weights, their families across widths, their twins elsewhere.

Bricken et al. 2023. *Logit weights*, the effect of a unit on the output: its direction through W_out W_U,
the straight path to the logits without the last LayerNorm. *Splitting* (section "Feature splitting"): features of a
narrow dictionary break up in a wider one. *Universality* (section "Universality"): the largest correlation of a unit's
activations with those of any unit of another network on the same tokens.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.metrics import cosines
from replications.monosemanticity.units import Firings, Text

LEAST_COUNT = 10  # occurrences of a next token that enters a correlation


def logit_correlations(
    logits: Float[np.ndarray, "unit d_vocab"], firings: Firings, text: Text
) -> Float[np.ndarray, " unit"]:
    """For each unit the correlation over next tokens, weighted by their frequency, of its logit weight and its lift.

    The lift of a token is its share behind the unit's firings over its share of all next tokens.
    """
    d_vocab = logits.shape[1]
    real = text.following >= 0
    seen = np.bincount(text.following[real], minlength=d_vocab).astype(np.float64)
    use = seen >= LEAST_COUNT
    share = seen * use / max(1.0, (seen * use).sum())
    entry = real[firings.place]
    flat = firings.unit[entry] * d_vocab + text.following[firings.place[entry]]
    fired = np.bincount(flat, minlength=firings.units * d_vocab).reshape(firings.units, d_vocab) * use
    lift = fired / np.maximum(fired.sum(1, keepdims=True), 1) / np.where(share > 0, share, 1)
    a = logits - (logits @ share)[:, None]
    b = lift - (lift @ share)[:, None]
    below = np.sqrt((a**2 @ share) * (b**2 @ share))
    found: Float[np.ndarray, " unit"] = ((a * b) @ share) / np.where(below > 0, below, 1)
    return found


class Nesting(NamedTuple):
    """For each latent of a wide dictionary its parent: the narrow latent with the nearest decoder row."""

    parent: Int[np.ndarray, " wide"]
    cosine: Float[np.ndarray, " wide"]
    inside: Float[np.ndarray, " wide"]
    """share of its firings at which the parent fires too"""


def together(
    fires_wide: Bool[Tensor, "token wide"], fires_narrow: Bool[Tensor, "token narrow"]
) -> Float[Tensor, "wide narrow"]:
    """P(narrow latent fires | wide latent fires)."""
    both: Tensor = fires_wide.float().mT @ fires_narrow.float()
    return both / fires_wide.sum(0).clamp(min=1)[:, None]


def nesting(
    wide: Float[Tensor, "wide d_mlp"], narrow: Float[Tensor, "narrow d_mlp"], inside: Float[Tensor, "wide narrow"]
) -> Nesting:
    """Parents are chosen by decoder alone; firings (`together`) then say whether the choice means anything."""
    cosine, parent = cosines(wide, narrow).max(1)
    return Nesting(parent.numpy(), cosine.numpy(), inside.gather(1, parent[:, None])[:, 0].numpy())


def split_share(found: Nesting, narrow: int, cosine: float, inside: float) -> float:
    """Share of narrow latents with two or more children: wide latents near enough in the decoder that fire inside."""
    children = (found.cosine >= cosine) & (found.inside >= inside)
    return float((np.bincount(found.parent[children], minlength=narrow) >= 2).mean())


def sibling_overlap(
    found: Nesting, fires: Bool[Tensor, "token wide"], cosine: float, inside: float
) -> tuple[float, int]:
    """Mean Jaccard index of the firings of two children of one parent, and the number of pairs; 0 without pairs."""
    children = np.flatnonzero((found.cosine >= cosine) & (found.inside >= inside))
    if len(children) == 0:
        return 0.0, 0
    on = fires[:, torch.from_numpy(children)].float()
    both = on.mT @ on
    either = on.sum(0)[:, None] + on.sum(0)[None] - both
    parent = torch.from_numpy(found.parent[children])
    pairs = (parent[:, None] == parent[None]).triu(1)
    count = int(pairs.sum())
    return (float((both / either.clamp(min=1))[pairs].double().mean()), count) if count else (0.0, 0)


def best_correlations(
    one: Float[Tensor, "token unit"], other: Float[Tensor, "token unit2"]
) -> Float[np.ndarray, " unit"]:
    """For each unit of `one` its largest correlation with a unit of `other`; constant units have correlation 0."""
    a, b = (_standard(x) for x in (one, other))
    found: Float[np.ndarray, " unit"] = (a.mT @ b / len(a)).amax(1).numpy()
    return found


def _standard(x: Float[Tensor, "token unit"]) -> Float[Tensor, "token unit"]:
    apart = x - x.mean(0)
    return apart / apart.square().mean(0).sqrt().clamp(min=1e-9)
