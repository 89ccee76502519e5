"""Adam with bias correction, and what unit-norm decoders need around it, for the members of a group.

Training an SAE with sparse kernels leaves little but one large matrix product and these passes over the weights. So
torch's fused kernel does each step in one pass.
"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from torch.optim.adam import adam as torch_adam

BETA2, EPSILON = 0.999, 1e-8


def project(gradient: Float[Tensor, "instance n d"], rows: Float[Tensor, "instance n d"]) -> None:
    """Takes the part of the gradient along each row of norm 1 away, in place."""
    along = einsum(gradient, rows, "instance n d, instance n d -> instance n")
    gradient.addcmul_(along[..., None], rows, value=-1)


def adam(
    weights: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    beta1: float,
    rate: float,
    count: int,
) -> None:
    """Step number `count` (from 1), in place.

    Gradients are made contiguous first: on a CPU the fused kernel reads memory in order, whatever the strides say.
    """
    steps = [torch.tensor(count - 1.0, device=one.device) for one in weights]
    torch_adam(
        weights,
        [one.contiguous() for one in gradients],
        first,
        second,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=BETA2,
        lr=rate,
        weight_decay=0.0,
        eps=EPSILON,
        maximize=False,
    )


def renormalise(rows: Float[Tensor, "instance n d"]) -> None:
    """Brings rows to norm 1, in place."""
    normalize(rows, dim=-1, out=rows)
