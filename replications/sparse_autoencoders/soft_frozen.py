"""BatchTopK SAEs whose decoder rows stay near their random start: the soft-frozen baseline of Korznikov et al. 2026.

After every step each decoder row w is brought back into the cone of cosine 0.8 around its first direction w0:

    w <- 0.8 w0 + 0.6 u,   u the unit vector of w - (w . w0) w0,   where w . w0 < 0.8

Such a dictionary cannot have found directions that it did not start near.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.architectures.base import Weights, unit_rows
from common.saes.recipe import Recipe, Training
from common.saes.trainer import Batches, Trained, first_weights, train

COSINE = 0.8


def into_cone(
    rows: Float[Tensor, "*instance d_sae d"], start: Float[Tensor, "*instance d_sae d"]
) -> Float[Tensor, "*instance d_sae d"]:
    """Unit rows, those outside the cone moved to its nearest edge."""
    along = (rows * start).sum(-1, keepdim=True)
    edge = COSINE * start + (1 - COSINE**2) ** 0.5 * unit_rows(rows - along * start)
    return torch.where(along < COSINE, edge, rows)


def train_soft_frozen(
    recipes: list[Recipe],
    batches: Batches,
    settings: Training,
    checkpoint: Path,
    *,
    data: str,
    device: str = "cpu",
    keep: bool = False,
) -> list[Trained]:
    """As `common.saes.trainer.train`, for SAEs of one architecture and shape."""
    start = first_weights(recipes, batches(0, recipes[0].source), device)["W_dec"]

    def constrain(weights: Weights) -> None:
        weights["W_dec"].copy_(into_cone(weights["W_dec"], start))

    data = f"soft {data}"
    return train(recipes, batches, settings, checkpoint, data=data, device=device, constrain=constrain, keep=keep)
