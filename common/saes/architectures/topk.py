"""TopK (Gao et al. 2024, arXiv 2406.04093) and BatchTopK (Bussmann et al. 2024, arXiv 2412.06410).

    f = ReLU(TopK(z)),  z = (x - b_dec) W_enc + b_enc,  loss = |x - x^|^2 / Var(x) + AuxK / 32

TopK keeps k latents of each token, BatchTopK the k B largest of a batch. A BatchTopK SAE is used with one threshold,
the running mean of the smallest kept value, so that tokens do not see each other. Unit decoder rows, encoder at the
start a multiple of decoder^T (`tied`), b_dec at the geometric median.

Deviations: Var(x) is that of the batch, not of the first one. The running mean forgets with 0.9, not 0.99 as in the
authors' BatchTopK code. Inputs are scaled by one scalar, not normalised per token.
"""

import torch

from common.saes.architectures.auxiliary import auxiliary_loss
from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    as_sae,
    constant,
    mean_square,
    pre_activations,
    tied,
    variance,
)
from common.saes.recipe import Recipe
from common.saes.sae import Sae
from common.saes.sparse import decode_at, encode_at, pattern_at, top_of_batch, top_per_token

AUXILIARY = 1 / 32


class TopK:
    """`of_batch` is BatchTopK."""

    unit_norm = True
    controlled = False
    beta1 = 0.9

    def __init__(self, *, of_batch: bool) -> None:
        self.of_batch = of_batch

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        return tied(recipe, batch, generator)

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        with torch.no_grad():
            z = pre_activations(weights, batch)
            smallest = None
            if self.of_batch:
                index, smallest = top_of_batch(z, context.k)
            else:
                index = top_per_token(z, context.k)
            pattern = pattern_at(index, z.shape)
        values = encode_at(batch.x, weights["W_enc"], weights["b_enc"], weights["b_dec"], z, index, pattern)
        left = batch.y - decode_at(values, weights["W_dec"], pattern) - weights["b_dec"][:, None]
        error = mean_square(left)
        revive = auxiliary_loss(weights, batch, left.detach(), context)
        loss = error / variance(batch.y) + AUXILIARY * revive
        return Losses(loss, error.detach(), pattern.l0(), pattern.counts(), smallest)

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        if self.of_batch:
            return as_sae(weights, recipe, "jumprelu", threshold=constant(progress.threshold, weights["b_enc"]))
        return as_sae(weights, recipe, "topk", k=int(recipe.sparsity))
