"""JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435) with a target for L0 (Gemma Scope 2).

    f = z 1[z > theta],  loss = |x - x^|^2 + (L0 / L0* - 1)^2

Neither the jump nor the count has a useful gradient in theta. Both get an estimate with the rectangle kernel K(u) =
1[|u| < 1/2] of bandwidth eps:

    d f / d theta            =  -(theta / eps) K((z - theta) / eps)
    d 1[z > theta] / d theta =  -(1 / eps) K((z - theta) / eps)

z gets no gradient from the step (tests compare with these formulas).

Deviations: theta is trained directly, as a rectified parameter, and not as log theta. Adam moves log theta by at most
about its rate per step, so that a small start stays frozen. The first theta is the value at which L0 is the one aimed
at; eps is a share of a member's mean theta. So neither depends on the scale of z. The paper's 0.001 for both suits runs
thousands of times longer. A pre-activation loss of 3e-6 revives dead latents (Anthropic, January 2025). The price of L0
rises from 0 over the first steps.
"""

from typing import Any

import torch
from torch import Tensor

from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    active_level,
    as_sae,
    dense_counts,
    pre_activations,
    squared_error,
    tied,
)
from common.saes.recipe import Recipe
from common.saes.sae import Sae

REVIVE = 3e-6


class _Jump(torch.autograd.Function):
    """z 1[z > theta]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: Tensor | float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        near = ((z - threshold) / ctx.bandwidth).abs() < 0.5
        slope = -(threshold / ctx.bandwidth) * near * gradients[0]
        return gradients[0] * (z > threshold), slope.sum_to_size(threshold.shape), None


class _Count(torch.autograd.Function):
    """1[z > theta]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: Tensor | float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        near = ((z - threshold) / ctx.bandwidth).abs() < 0.5
        return None, (-(1 / ctx.bandwidth) * near * gradients[0]).sum_to_size(threshold.shape), None


def jump(z: Tensor, threshold: Tensor, bandwidth: Tensor | float) -> Tensor:
    """Latents, with the estimated gradient."""
    out: Tensor = _Jump.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return out


def count(z: Tensor, threshold: Tensor, bandwidth: Tensor | float) -> Tensor:
    """Which latents fire, with the estimated gradient."""
    out: Tensor = _Count.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return out


class JumpRelu:
    unit_norm = True
    controlled = False
    beta1 = 0.0

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        weights = tied(recipe, batch, generator)
        z = (batch.x[0] - weights["b_dec"]) @ weights["W_enc"].mT
        return {**weights, "threshold": active_level(z, recipe.sparsity).expand_as(weights["b_enc"]).clone()}

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        z = pre_activations(weights, batch)
        threshold = weights["threshold"].relu()[:, None]
        bandwidth = context.bandwidth * threshold.detach().mean(-1, keepdim=True).clamp(min=1e-6)
        latents = jump(z, threshold, bandwidth)
        error = squared_error(batch.y, latents @ weights["W_dec"] + weights["b_dec"][:, None])
        l0 = count(z, threshold, bandwidth).sum(-1).mean(-1)
        aim = torch.tensor([recipe.sparsity for recipe in context.recipes], device=z.device)
        loss = error + context.price * (l0 / aim - 1).square()
        if bool(context.dead.any()):
            shortfall = (threshold - z).relu() * context.dead[:, None]
            loss = loss + REVIVE * shortfall.sum(-1).mean(-1)
        return Losses(loss, error.detach(), l0.detach(), dense_counts(latents))

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        return as_sae(weights, recipe, "jumprelu", threshold=weights["threshold"].relu())
