"""Which heads of a language model have a role on random repeats, and which others are removed to compare.

Controls have as many heads in the same layers and no role. They have the lowest score of that kind, are random, or
write most. The last two are the harder ones, since heads that write little are missed by nobody.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from replications.induction_heads.language_model import Head

SHARE_OF_BEST = 0.5  # a head has a role if its score is at least this share of the best head's
DRAWS = 3  # random sets of each role

Roles = dict[str, list[Head]]


def choose(score: dict[str, Float[Tensor, "layer head"]], writes: Float[Tensor, "layer head"]) -> Roles:
    """Induction heads, previous-token heads below the first of them, and the controls of both.

    Args:
        score: of every head on random repeats, `induction` and `previous`.
        writes: norm of what every head writes.
    """
    induction, previous = score["induction"], score["previous"].clone()
    leading = _above(induction)
    previous[min(layer for layer, _ in leading) :] = 0
    steering = _above(previous)
    taken = {*leading, *steering}
    found: Roles = {"induction": leading, "previous": steering}
    rng = np.random.default_rng(0)
    for role, low in (("induction", induction), ("previous", score["previous"])):
        heads = found[role]
        found[f"{role}_others"] = matched(heads, -low, taken)
        found[f"{role}_writers"] = matched(heads, writes, taken)
        for k in range(DRAWS):
            found[f"{role}_random_{k}"] = random_set(heads, low.shape[1], rng, taken)
    return found


def _above(score: Float[Tensor, "layer head"]) -> list[Head]:
    return [(layer, head) for layer, head in (score >= SHARE_OF_BEST * score.max()).nonzero().tolist()]


def matched(heads: list[Head], preference: Float[Tensor, "layer head"], taken: set[Head]) -> list[Head]:
    """In every layer of `heads`, as many untaken heads with the highest preference, as far as the layer has them."""
    found: list[Head] = []
    for layer in sorted({layer for layer, _ in heads}):
        count = sum(one == layer for one, _ in heads)
        free = [head for head in (-preference[layer]).argsort(stable=True).tolist() if (layer, head) not in taken]
        found += [(layer, head) for head in free[:count]]
    return found


def random_set(heads: list[Head], n_heads: int, rng: np.random.Generator, taken: set[Head]) -> list[Head]:
    """The same with heads at random."""
    layers = max(layer for layer, _ in heads) + 1
    return matched(heads, torch.from_numpy(rng.random((layers, n_heads))), taken)
