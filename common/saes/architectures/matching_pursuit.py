"""Matching pursuit SAE (Costa et al. 2025, arXiv 2506.03093): latents are chosen one after the other.

    r_0 = x - b_dec;   k times: i = argmax r W_dec^T,  f_i += a = ReLU(r . W_dec_i),  r <- r - a W_dec_i
    loss = |r_k|^2 / Var(x)

There is no encoder but the unit decoder rows. The gradient goes through the values and residuals of all rounds; the
choice has none. `fired` counts rounds, and a latent may be chosen twice. No auxiliary loss.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor

from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    as_sae,
    mean_square,
    tied,
    variance,
)
from common.saes.recipe import Recipe
from common.saes.sae import Sae


class MatchingPursuit:
    unit_norm = True
    controlled = False
    beta1 = 0.9

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        weights = tied(recipe, batch, generator)
        return {"W_dec": weights["W_dec"], "b_dec": weights["b_dec"]}

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        W_dec = weights["W_dec"]
        instances, d_sae, _ = W_dec.shape
        first = d_sae * torch.arange(instances, device=W_dec.device)[:, None]
        rounds = torch.tensor([round(k) for k in context.k], device=W_dec.device)[:, None, None]
        left: Tensor = batch.x - weights["b_dec"][:, None]
        fired = torch.zeros(instances * d_sae, dtype=torch.long, device=W_dec.device)
        for place in range(int(rounds.max())):
            with torch.no_grad():
                best = (left @ W_dec.mT).argmax(-1)
            rows = F.embedding(first + best, W_dec.flatten(0, 1))
            values = (left * rows).sum(-1, keepdim=True).relu() * (place < rounds)
            left = left - values * rows
            fired += torch.bincount((first + best)[values[..., 0] > 0], minlength=len(fired))
        error, fired = mean_square(left), rearrange(fired, "(instance d_sae) -> instance d_sae", d_sae=d_sae)
        return Losses(error / variance(batch.y), error.detach(), fired.sum(1) / left.shape[1], fired)

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        whole = {**weights, "W_enc": weights["W_dec"], "b_enc": torch.zeros_like(weights["W_dec"][:, 0])}
        return as_sae(whole, recipe, "matching_pursuit", k=int(recipe.sparsity))
