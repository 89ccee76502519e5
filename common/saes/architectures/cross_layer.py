"""Cross-layer transcoder (Ameisen, Lindsey et al. 2025): a layer's latents write to the MLP outputs of all later
layers.

    f^l = TopK(x^l W_enc^l + b_enc^l),   y^^l = sum over l' <= l of f^l' W_dec^(l'->l) + b_dec^l

Data come with layers on the feature axis, x [batch (layer d_model)]. Each latent of layer l' has one decoder row of
length (layer d_model). Its entries before l' are masked, so all decoders are one matrix.

The loss is the mean over layers of |y^l - y^^l|^2 / Var(y^l), plus AuxK / 32 in the same units. It divides by the
variance since late layers write many times as much as early ones.

Deviations: TopK per layer (as OpenMOSS train theirs) in place of JumpReLU with a tanh penalty, whose constants are
unpublished; start as for transcoders. It is no `Sae`: `common.saes.cross_layer` encodes, decodes and saves what was
trained.
"""

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from common.core.errors import UserError
from common.saes.architectures.auxiliary import dead_latents, prediction_loss
from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    mean_square,
    random_rows,
    squared_error,
)
from common.saes.architectures.topk import AUXILIARY
from common.saes.recipe import Recipe
from common.saes.sae import Sae
from common.saes.sparse import decode_at, make_pattern, top_per_token


class CrossLayer:
    unit_norm = False
    controlled = False
    beta1 = 0.9

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        x = split(batch.x[0], recipe.layers)
        rows = random_rows(recipe.layers * recipe.d_sae, x.shape[-1], generator).to(x)
        rows = rearrange(rows, "(layer d_sae) d -> layer d_sae d", layer=recipe.layers)
        return {
            "W_enc": rows,
            "b_enc": -einsum(rows, x.mean(0), "layer d_sae d, layer d -> layer d_sae"),
            "W_dec": torch.zeros(recipe.layers * recipe.d_sae, batch.y.shape[-1], device=x.device),
            "b_dec": batch.y[0].mean(0),
        }

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        layers, d_sae = context.recipes[0].layers, context.recipes[0].d_sae
        instances, n = len(weights["W_enc"]), batch.x.shape[1]
        x = split(batch.x.expand(instances, -1, -1), layers)
        z = einsum(x, weights["W_enc"], "instance batch layer d, instance layer d_sae d -> instance layer batch d_sae")
        z = z + weights["b_enc"][:, :, None]
        flat = rearrange(z, "instance layer batch d_sae -> (instance layer) batch d_sae")
        k = [own for own in context.k for _ in range(layers)]
        index = top_per_token(flat.detach(), k)
        token, latent = index // d_sae, index % d_sae
        place, token = token // n, token % n  # place: (instance layer)
        instance = place // layers
        rows, order = (instance * n + token).sort(stable=True)
        cols = (place * d_sae + latent)[order]
        pattern = make_pattern(rows, cols, instances, n, layers * d_sae)
        decoder = weights["W_dec"] * causal(layers, d_sae, batch.y.shape[-1], batch.y.device)
        found = decode_at(flat.flatten()[index][order], decoder, pattern) + weights["b_dec"][:, None]
        error = squared_error(batch.y, found)
        spread = layer_spread(batch.y, layers)
        left = (batch.y - found) / spread
        loss = mean_square(left) / layers
        if (dead := dead_latents(context)) is not None:
            of_dead = rearrange(z, "instance layer batch d_sae -> instance (layer d_sae) batch")
            loss = loss + AUXILIARY * prediction_loss(
                dead.of(of_dead).mT, dead.of(decoder) / spread, dead, left.detach()
            )  # fmt: skip
        return Losses(loss, error.detach(), pattern.l0(), pattern.counts())

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        raise UserError("a cross-layer transcoder is no single SAE; use common.saes.cross_layer")


def layer_spread(y: Float[Tensor, "one batch wide"], layers: int) -> Float[Tensor, "one 1 wide"]:
    """The root of the variance of each layer's target, at all of its dimensions."""
    found = split(y - y.mean(1, keepdim=True), layers).square().sum(-1).mean(1).sqrt()
    return repeat(found, "one layer -> one 1 (layer d)", d=y.shape[-1] // layers)


def split(x: Float[Tensor, "*n wide"], layers: int) -> Float[Tensor, "*n layer d"]:
    """Layers as an axis of their own. UserError if the width is no multiple."""
    if x.shape[-1] % layers:
        raise UserError(f"{x.shape[-1]} dimensions do not divide into {layers} layers; stack one hook per layer")
    return rearrange(x, "... (layer d) -> ... layer d", layer=layers)


def causal(layers: int, d_sae: int, wide: int, device: torch.device) -> Float[Tensor, "latent wide"]:
    """1 where a latent may write: its own layer and later ones."""
    allowed = torch.ones(layers, layers, device=device).triu()
    return repeat(allowed, "source target -> (source d_sae) (target d)", d_sae=d_sae, d=wide // layers)
