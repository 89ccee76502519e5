"""Transcoders (Dunefsky et al. 2024, arXiv 2406.11944): predict an MLP's output from its input through sparse latents.

    y^ = f W_dec + b_dec (+ x W_skip^T),   f = BatchTopK(x W_enc + b_enc),   loss |y - y^|^2 / Var(y) + AuxK / 32

Start as in sparsify: random encoder, W_dec = 0, W_skip = 0, b_dec the mean target. b_enc is such that the mean input
gives 0, and decoder norms are free. Deviation: BatchTopK instead of the paper's ReLU and L1, so that no coefficient has
to be found. With one threshold, as for `topk`, it is a `jumprelu_transcoder` of SAELens (which has none with TopK).
"""

import torch
from einops import einsum

from common.saes.architectures.auxiliary import auxiliary_loss
from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    as_sae,
    constant,
    pre_activations,
    random_rows,
    squared_error,
    variance,
)
from common.saes.architectures.topk import AUXILIARY
from common.saes.recipe import Recipe
from common.saes.sae import Sae
from common.saes.sparse import decode_at, encode_at, pattern_at, top_of_batch


class Transcoder:
    unit_norm = False
    controlled = False
    beta1 = 0.9

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        x, y = batch.x[0], batch.y[0]
        rows = random_rows(recipe.d_sae, x.shape[-1], generator).to(x)
        weights = {
            "W_enc": rows,
            "b_enc": -(rows @ x.mean(0)),
            "W_dec": torch.zeros(recipe.d_sae, y.shape[-1], device=x.device),
            "b_dec": y.mean(0),
        }
        return {**weights, "W_skip": torch.zeros(y.shape[-1], x.shape[-1], device=x.device)} if self.skip else weights

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        with torch.no_grad():
            z = pre_activations(weights, batch, centred=False)
            index, smallest = top_of_batch(z, context.k)
            pattern = pattern_at(index, z.shape)
        nothing = torch.zeros_like(weights["W_enc"][:, 0])
        values = encode_at(batch.x, weights["W_enc"], weights["b_enc"], nothing, z, index, pattern)
        found = decode_at(values, weights["W_dec"], pattern) + weights["b_dec"][:, None]
        if self.skip:
            x = batch.x.expand(len(found), -1, -1)
            skipped = einsum(x, weights["W_skip"], "instance batch d_in, instance d_out d_in -> instance batch d_out")
            found = found + skipped
        error = squared_error(batch.y, found)
        revive = auxiliary_loss(weights, batch, (batch.y - found).detach(), context, centred=False)
        loss = error / variance(batch.y) + AUXILIARY * revive
        return Losses(loss, error.detach(), pattern.l0(), pattern.counts(), smallest)

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        return as_sae(
            weights,
            recipe,
            "jumprelu",
            threshold=constant(progress.threshold, weights["b_enc"]),
            W_skip=weights.get("W_skip"),
            centred=False,
        )
