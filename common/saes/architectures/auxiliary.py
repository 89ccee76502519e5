"""AuxK (Gao et al. 2024, appendix A.2): dead latents learn to predict what the living ones leave over.

The d/2 dead latents with the largest pre-activations (ReLU'd) predict the detached error e, without bias; the loss is
|e - e^|^2 over the variance of e, NaN counting as 0. Dead latents are few, so this part is dense on their rows alone.
Deviation: d/2 as it is, not rounded to a power of 2.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.architectures.base import Batch, Context, Weights
from common.saes.sparse import largest


def auxiliary_loss(
    weights: Weights,
    batch: Batch,
    error: Float[Tensor, "instance batch d_out"],
    context: Context,
    *,
    centred: bool = True,
) -> Float[Tensor, " instance"]:
    """One value per member, 0 for members without dead latents or without AuxK."""
    found = []
    for index, recipe in enumerate(context.recipes):
        dead = context.dead[index].nonzero()[:, 0] if recipe.auxiliary else torch.zeros(0, dtype=torch.long)
        if len(dead) == 0:
            found.append(torch.zeros((), device=error.device))
            continue
        x = batch.x[index if len(batch.x) > 1 else 0]
        x = x - weights["b_dec"][index] if centred else x
        z = x @ weights["W_enc"][index][dead].mT + weights["b_enc"][index][dead]
        keep = min(len(dead), max(1, x.shape[-1] // 2))
        with torch.no_grad():
            kept = largest(z[None], keep, ordered=False)[1][0]
        latents = torch.zeros_like(z).scatter(-1, kept, z.gather(-1, kept).relu())
        target = error[index]
        missed = (target - latents @ weights["W_dec"][index][dead]).square().sum()
        found.append((missed / (target - target.mean(0)).square().sum()).nan_to_num(0.0))
    return torch.stack(found)
