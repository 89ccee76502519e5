"""Choosing heads on one half of the data and measuring them on the other, and what chance does with the same choice.

The best of N heads looks strong by luck alone when it is measured on the prompts that chose it. So the heads are chosen
on one half (own templates, own names), measured on the other half, and the halves are exchanged: each prompt's value
comes from heads that it had no part in choosing. Null draws flip the roles of the two names prompt by prompt and then
go through the same choice and the same measurement.
"""

import numpy as np
from jaxtyping import Float, Int


def chosen_on_other_half(
    effects: Float[np.ndarray, "prompt head"], half: Int[np.ndarray, " prompt"], top: int, sign: int
) -> Int[np.ndarray, "half top"]:
    """Row h: the `top` heads with the largest `sign` x mean effect on the half that is not h, strongest first."""
    means = np.stack([effects[half == 1 - side].mean(0) for side in (0, 1)])
    return np.argsort(-sign * means, axis=1, kind="stable")[:, :top]


def crossfit(
    effects: Float[np.ndarray, "prompt head"], half: Int[np.ndarray, " prompt"], top: int, sign: int
) -> Float[np.ndarray, " prompt"]:
    """Summed effect on each prompt of the `top` heads chosen on the other half."""
    chosen = chosen_on_other_half(effects, half, top, sign)
    total: Float[np.ndarray, " prompt"] = np.take_along_axis(effects, chosen[half], axis=1).sum(1)
    return total


def crossfit_null(
    effects: Float[np.ndarray, "prompt head"],
    half: Int[np.ndarray, " prompt"],
    top: int,
    sign: int,
    flips: Float[np.ndarray, "draw prompt"],
) -> Float[np.ndarray, "draw prompt"]:
    """`crossfit` on effects whose roles were flipped, one row per draw of `flips`."""
    return np.stack([crossfit(effects * flip[:, None], half, top, sign) for flip in flips])


def late_share_parts(
    effects: Float[np.ndarray, "prompt head"],
    half: Int[np.ndarray, " prompt"],
    late: Float[np.ndarray, "draw head"],
) -> tuple[Float[np.ndarray, "draw prompt"], Float[np.ndarray, " prompt"]]:
    """Summed effect of the late heads that lower the difference on the other half, and of all such heads.

    `late` is 1 for late heads and 0 for others, one row per draw.
    """
    means = np.stack([effects[half == 1 - side].mean(0) for side in (0, 1)])
    harmful = effects * (means < 0)[half]
    return late @ harmful.T, harmful.sum(1)
