"""ReLU with an L1 penalty, in both of Anthropic's forms.

`Bricken` (Towards Monosemanticity, 2023):

    f = ReLU((x - b_dec) W_enc + b_enc),  loss = |x - x^|^2 + lambda |f|_1

Decoder rows have norm 1. Gradients along them are removed *and* rows renormalised: a unit vector plus a perpendicular
step is longer than 1. Silent neurons are resampled (`common.saes.resampling`).

`April` (Circuits updates, April 2024):

    f = ReLU(x W_enc + b_enc),  loss = |x - x^|^2 + lambda sum_i f_i |W_dec_i|

Decoder norms are free. At the start decoder rows have norm 0.1, the encoder is the decoder transposed, biases are 0.

Deviations: lambda is not fixed. A controller moves it until L0 is the one aimed at, so that architectures are compared
at equal L0 after one pass. Inputs have mean squared norm 1 in both forms. The 2023 encoder starts rescaled (`tied`).
"""

import torch
from torch import Tensor

from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    as_sae,
    dense_counts,
    pre_activations,
    squared_error,
    tied,
)
from common.saes.recipe import Recipe
from common.saes.sae import Sae


class Relu:
    """`centred` and unit norm are the 2023 form, without both it is the 2024 form."""

    controlled = True
    beta1 = 0.9

    def __init__(self, *, centred: bool) -> None:
        self.centred = self.unit_norm = centred

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        weights = tied(recipe, batch, generator, sparse=False)
        if self.centred:
            return weights
        rows = 0.1 * weights["W_dec"]
        return {**weights, "W_enc": rows, "W_dec": rows.clone(), "b_dec": torch.zeros_like(weights["b_dec"])}

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        latents = pre_activations(weights, batch, centred=self.centred).relu()
        error = squared_error(batch.y, latents @ weights["W_dec"] + weights["b_dec"][:, None])
        price: Tensor = latents if self.centred else latents * weights["W_dec"].norm(dim=-1)[:, None]
        fired = dense_counts(latents)
        l0 = fired.sum(1) / latents.shape[1]
        coefficient = context.progress.coefficient * context.price
        return Losses(error + coefficient * price.sum(-1).mean(-1), error.detach(), l0, fired)

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        return as_sae(weights, recipe, "relu", centred=self.centred)
