"""BatchTopK SAEs whose decoder rows stay near their random start: the soft-frozen baseline of Korznikov et al. 2026.

After every step each decoder row w is brought back into the cone of cosine 0.8 around its first direction w0:

    w <- 0.8 w0 + 0.6 u,   u the unit vector of w - (w . w0) w0,   where w . w0 < 0.8

Such a dictionary cannot have found directions that it did not start near. Training is short, so it keeps no checkpoint.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from common.cli import track
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import member, unit_rows
from common.saes.recipe import Recipe, Training
from common.saes.trainer import TRACES, Batches, Trained, _slice, _start, _step

COSINE = 0.8


def into_cone(
    rows: Float[Tensor, "*instance d_sae d"], start: Float[Tensor, "*instance d_sae d"]
) -> Float[Tensor, "*instance d_sae d"]:
    """Unit rows, those outside the cone moved to its nearest edge."""
    along = (rows * start).sum(-1, keepdim=True)
    edge = COSINE * start + (1 - COSINE**2) ** 0.5 * unit_rows(rows - along * start)
    return torch.where(along < COSINE, edge, rows)


def train_soft_frozen(
    recipes: list[Recipe], batches: Batches, settings: Training, device: str = "cpu"
) -> list[Trained]:
    """As `common.saes.trainer.train`, for SAEs of one architecture and shape, without checkpoints."""
    group = _start(recipes, batches(0, recipes[0].source), device)
    start = group.weights["W_dec"].clone()
    traces = []
    for step in track(range(settings.steps), "soft-frozen training"):
        found = _step(group, batches, settings, step)
        group.weights["W_dec"].copy_(into_cone(group.weights["W_dec"], start))
        if step % settings.trace_every == 0 or step == settings.steps - 1:
            traces.append(found.cpu())
    table = torch.stack(traces)
    done = []
    for place, recipe in enumerate(recipes):
        weights, progress = member(group.weights, place), _slice(group.progress, place)
        lines = {name: table[:, row, place] for row, name in enumerate(TRACES)}
        sae = ARCHITECTURES[recipe.architecture].export(weights, recipe, progress)
        done.append(Trained(recipe, sae, weights, progress, lines))
    return done
