"""Which heads of models of natural text count as induction heads, and which others are removed to compare.

Heads are chosen at the end of training on repeats of random tokens. An induction head has at least half of the best
prefix score of its model, and at least `LEAST_SCORE`. The best of many heads that match nothing is no induction head.
At most half of the heads of a layer count, so that as many others are left in it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.toys.settings import Architecture
from common.toys.transformer import Weights
from replications.induction_heads.data import HeldOut
from replications.induction_heads.evaluation import SHARE_OF_BEST, losses_on, patterns, scores
from replications.induction_heads.text_evaluation import PIECE

LEAST_SCORE = 0.05  # of a head that has a role; even attention scores about one over the context's length
Heads = Bool[Tensor, "instance layer head"]


def groups_of(
    weights: Weights, shape: Architecture, chosen_on: HeldOut, text: Int[Tensor, "batch pos"], draws: int
) -> dict[str, Heads]:
    """Heads to remove.

    Groups:
        induction: induction heads.
        highest: the same without a least score.
        previous: previous-token heads of the first layer.
        writers: as many others in each layer as there are induction heads, those that write most on `text`.
        random_0, ...: as many, at random.
        other_first: as many as there are previous-token heads, those with the lowest score.
        first: those of the first layer that write most and are neither. As many as there are induction heads in all
            layers, or as many as exist.
    """
    cache: Weights = {}
    losses_on(weights, chosen_on.tokens, shape, cache=cache)
    found = scores(patterns(cache, shape), chosen_on)
    highest = strongest(found["prefix"])
    induction = highest & (found["prefix"] >= LEAST_SCORE)
    previous = found["previous"].clone()
    previous[:, 1:] = 0
    leading = strongest(previous)
    norms = write_norms(weights, shape, text)
    neither = ~(leading | induction)
    neither[:, 1:] = False
    generator = torch.Generator().manual_seed(0)
    groups = {
        "induction": induction,
        "highest": highest,
        "previous": leading,
        "other_first": others(leading, -found["previous"]),
        "writers": others(induction, norms),
        "first": neither & (_rank(norms.masked_fill(~neither, -torch.inf)) < induction.sum((1, 2))[:, None, None]),
    }
    for k in range(draws):
        groups[f"random_{k}"] = others(induction, torch.rand(induction.shape, generator=generator))
    return groups


def strongest(score: Float[Tensor, "instance layer head"]) -> Heads:
    """Heads with at least half of the best score; in each layer at most half of the heads, the best ones."""
    enough: Tensor = score >= SHARE_OF_BEST * score.amax((1, 2), keepdim=True)
    return enough & (_rank(score) < score.shape[-1] // 2)


def others(heads: Heads, preference: Float[Tensor, "instance layer head"]) -> Heads:
    """As many other heads in each layer, those with the highest `preference`."""
    chosen: Tensor = _rank(preference.masked_fill(heads, -torch.inf)) < heads.sum(-1, keepdim=True)
    return chosen


def write_norms(
    weights: Weights, shape: Architecture, text: Int[Tensor, "batch pos"]
) -> Float[Tensor, "instance layer head"]:
    """Norm of what each head adds to the residual stream, mean over all positions but the first."""
    total = torch.zeros(len(weights["embed.W_E"]), shape.n_layers, shape.n_heads)
    for piece in torch.split(text, PIECE):
        cache: Weights = {}
        with torch.no_grad():
            losses_on(weights, piece, shape, cache=cache)
        for layer in range(shape.n_layers):
            z, W_O = cache[f"blocks.{layer}.attn.hook_z"][:, :, 1:], weights[f"blocks.{layer}.attn.W_O"]
            each = [
                (z[:, :, :, head] @ W_O[:, None, head]).norm(dim=-1).mean(-1).sum(-1) for head in range(shape.n_heads)
            ]
            total[:, layer] += torch.stack(each, -1)
    return total / len(text)


def _rank(score: Float[Tensor, "instance layer head"]) -> Tensor:
    """Place of each head in its layer, 0 the highest."""
    return (-score).argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
