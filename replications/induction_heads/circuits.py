"""The roles that trained heads play, found by where they look, and their removal."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from common.toys.settings import Architecture
from common.toys.transformer import Ablation, Weights
from replications.induction_heads.data import HeldOut
from replications.induction_heads.evaluation import losses_on, patterns, scores

SHARE_OF_BEST = 0.5  # a head has a role if its score is at least this share of the best head's


class Roles(NamedTuple):
    """Which heads play which role. `others`: as many heads as `induction`, those with the lowest prefix scores."""

    induction: Bool[Tensor, "instance layer head"]
    previous: Bool[Tensor, "instance layer head"]
    others: Bool[Tensor, "instance layer head"]
    other_first: Bool[Tensor, "instance layer head"]


def roles(weights: Weights, shape: Architecture, chosen_on: HeldOut) -> Roles:
    """Induction heads: prefix score at least half the best. Previous-token heads: likewise, in the first layer."""
    cache: Weights = {}
    losses_on(weights, chosen_on, shape, cache=cache)
    found = scores(patterns(cache, shape), chosen_on)
    prefix, previous = found["prefix"], found["previous"].clone()
    previous[:, 1:] = 0
    induction = prefix >= SHARE_OF_BEST * prefix.amax((1, 2), keepdim=True)
    leading = previous >= SHARE_OF_BEST * previous.amax((1, 2), keepdim=True)
    rest = torch.where(leading, torch.inf, previous)
    rest[:, 1:] = torch.inf
    return Roles(
        induction,
        leading,
        lowest(torch.where(induction, torch.inf, prefix), induction.sum((1, 2))),
        lowest(rest, leading.sum((1, 2))),
    )


def lowest(score: Float[Tensor, "instance layer head"], count: Tensor) -> Bool[Tensor, "instance layer head"]:
    """The `count` heads of each instance with the lowest finite score."""
    flat = score.flatten(1)
    rank = flat.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    chosen = (rank < count[:, None]) & torch.isfinite(flat)
    return rearrange(chosen, "instance (layer head) -> instance layer head", layer=score.shape[1])


def without(heads: Bool[Tensor, "instance layer head"], cache: Weights | None = None) -> Ablation:
    """Removes the output of some heads. With the cache of an intact run, all patterns stay as they were there."""
    frozen = {name: value for name, value in (cache or {}).items() if name.endswith("hook_pattern")}
    return Ablation(1.0 - heads.float(), frozen)
