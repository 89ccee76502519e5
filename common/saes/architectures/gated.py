"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014): one path decides which latents fire, another how strongly.

    pi = (x - b_dec) W_enc + b_gate,   f = 1[pi > 0] ReLU(exp(r_mag) (x - b_dec) W_enc + b_mag)
    loss = |x - x^(f)|^2 + lambda |ReLU(pi)|_1 + |x - x^_frozen(ReLU(pi))|^2

The last term decodes with W_dec and b_dec detached, as in the paper (SAELens does not detach). Unit decoder rows,
encoder = decoder^T, r_mag and biases 0, Adam with beta1 = 0. Deviations: lambda follows the L0 aimed at; the encoder is
rescaled at the start (`tied`).
"""

import torch

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


class Gated:
    unit_norm = True
    controlled = True
    beta1 = 0.0

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        weights = tied(recipe, batch, generator, sparse=False)
        zero = torch.zeros_like(weights["b_enc"])
        return {**weights, "r_mag": zero, "b_mag": zero.clone()}

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        gate = pre_activations(weights, batch)
        shared = gate - weights["b_enc"][:, None]
        magnitude = (shared * weights["r_mag"].exp()[:, None] + weights["b_mag"][:, None]).relu()
        latents = (gate > 0) * magnitude
        open_gate = gate.relu()
        decoder, bias = weights["W_dec"], weights["b_dec"][:, None]
        error = squared_error(batch.y, latents @ decoder + bias)
        through_gate = squared_error(batch.y, open_gate @ decoder.detach() + bias.detach())
        fired = dense_counts(latents)
        price = context.price * context.progress.coefficient * open_gate.sum(-1).mean(-1)
        return Losses(error + price + through_gate, error.detach(), fired.sum(1) / latents.shape[1], fired)

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        return as_sae(weights, recipe, "gated", r_mag=weights["r_mag"], b_mag=weights["b_mag"])
