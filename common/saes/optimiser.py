"""Adam with bias correction, and what unit-norm decoders need around it, for the members of a group.

Training an SAE with sparse kernels leaves little but one large matrix product and these element-wise passes over the
weights. On a CPU they go through the weights in pieces that stay in its cache, which changes no bit of the result.
"""

from jaxtyping import Float
from torch import Tensor

from common.saes.architectures.base import unit_rows as renormalised

BETA2, EPSILON = 0.999, 1e-8
PIECE = 2**17  # numbers


def pieces(value: Float[Tensor, "instance n *more"]) -> list[tuple[slice, slice]]:
    """Indices of parts of at most `PIECE` numbers (or one row); a GPU takes all at once."""
    if value.is_cuda:
        return [(slice(None), slice(None))]
    size = max(1, PIECE // value[0, 0].numel())
    return [
        (slice(instance, instance + 1), slice(start, start + size))
        for instance in range(value.shape[0])
        for start in range(0, value.shape[1], size)
    ]


def project(gradient: Float[Tensor, "instance n d"], rows: Float[Tensor, "instance n d"]) -> None:
    """Takes the part of the gradient along each row of norm 1 away, in place."""
    for piece in pieces(rows):
        along = (gradient[piece] * rows[piece]).sum(-1, keepdim=True)
        gradient[piece].sub_(along * rows[piece])


def adam(
    weight: Float[Tensor, "instance n *more"],
    gradient: Float[Tensor, "instance n *more"],
    first: Float[Tensor, "instance n *more"],
    second: Float[Tensor, "instance n *more"],
    beta1: float,
    rate: float,
    count: int,
    *,
    unit_rows: bool,
) -> None:
    """Step number `count` (from 1), in place; `unit_rows` brings rows back to norm 1."""
    for piece in pieces(weight):
        own = gradient[piece]
        first[piece].lerp_(own, 1 - beta1)
        second[piece].mul_(BETA2).addcmul_(own, own, value=1 - BETA2)
        below = (second[piece] / (1 - BETA2**count)).sqrt_().add_(EPSILON)
        weight[piece].addcdiv_(first[piece], below, value=-rate / (1 - beta1**count))
        if unit_rows:
            weight[piece].copy_(renormalised(weight[piece]))
