"""AuxK (Gao et al. 2024, appendix A.2): dead latents learn to predict what the living ones leave over.

The d/2 dead latents with the largest pre-activations (ReLU'd) predict the detached error e, without bias. The loss is
|e - e^|^2 over the variance of e, NaN counting as 0. Dead latents are few, so this part is dense on their rows alone;
members with fewer of them are padded. Deviation: d/2 as it is, not rounded to a power of 2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.architectures.base import Batch, Context, Weights, mean_square
from common.saes.sparse import largest


class Dead(NamedTuple):
    """Dead latents of each member, padded to the same number; `rows` and `latents` index [instance d_sae]."""

    rows: Int[Tensor, "instance 1"]
    latents: Int[Tensor, "instance dead"]
    valid: Bool[Tensor, "instance dead"]

    def of(self, values: Tensor) -> Tensor:
        """What belongs to them in a tensor that begins with instance and d_sae."""
        return values[self.rows, self.latents]


def dead_latents(context: Context) -> Dead | None:
    """Those of members with AuxK; None if there are none."""
    wanted = torch.tensor([recipe.auxiliary for recipe in context.recipes], device=context.dead.device)
    mask = context.dead & wanted[:, None]
    if not bool(mask.any()):
        return None
    count = mask.sum(1)
    latents = mask.byte().argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    places = torch.arange(latents.shape[1], device=mask.device)
    return Dead(torch.arange(len(mask), device=mask.device)[:, None], latents, places < count[:, None])


def auxiliary_loss(
    weights: Weights,
    batch: Batch,
    error: Float[Tensor, "instance batch d_out"],
    context: Context,
    *,
    centred: bool = True,
) -> Float[Tensor, " instance"]:
    """One value per member, 0 for members without dead latents or without AuxK."""
    dead = dead_latents(context)
    if dead is None:
        return torch.zeros(len(error), device=error.device)
    W_enc, bias = dead.of(weights["W_enc"]), dead.of(weights["b_enc"])
    if centred:
        bias = bias - (W_enc @ weights["b_dec"][..., None])[..., 0]
    z = torch.baddbmm(bias[:, None], batch.x.expand(len(error), -1, -1), W_enc.mT)
    return prediction_loss(z, dead.of(weights["W_dec"]), dead, error)


def prediction_loss(
    z: Float[Tensor, "instance batch dead"],
    W_dec: Float[Tensor, "instance dead d_out"],
    dead: Dead,
    error: Float[Tensor, "instance batch d_out"],
) -> Float[Tensor, " instance"]:
    """Of the pre-activations and decoder rows of dead latents."""
    z = z.masked_fill(~dead.valid[:, None], 0.0).relu()
    with torch.no_grad():
        kept = largest(z, min(z.shape[-1], max(1, error.shape[-1] // 2)), ordered=False)[1]
    latents = torch.zeros_like(z).scatter(-1, kept, z.gather(-1, kept))
    spread = mean_square(error - error.mean(1, keepdim=True))
    loss: Tensor = (mean_square(error - latents @ W_dec) / spread).nan_to_num(0.0)
    return loss * dead.valid.any(1)
