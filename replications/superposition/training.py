"""Trains many toy models at once: batched quasi-Newton descent (BFGS) on a fixed sample.

A model here has a handful of parameters, so every instance keeps its own dense inverse Hessian, and one evaluation of
loss and gradient serves all instances. The line search is asynchronous: after each evaluation an instance either takes
its trial step (sufficient decrease, Nocedal and Wright eq. 3.4) and updates its Hessian (eq. 6.17), or halves the step
and tries again in the next evaluation.
"""

import math
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from replications.superposition.model import Activation, Data, evaluate

SUFFICIENT_DECREASE = 1e-4
SHRINK = 0.5


class Trained(NamedTuple):
    """Weights after training. `gradient` is the largest absolute gradient component left, `loss` the training loss."""

    W: Float[Tensor, "instance hidden feature"]
    b: Float[Tensor, "instance feature"]
    loss: Float[Tensor, " instance"]
    gradient: Float[Tensor, " instance"]


def initial(
    n_instances: int, n_hidden: int, n_features: int, generator: torch.Generator
) -> tuple[Float[Tensor, "instance hidden feature"], Float[Tensor, "instance feature"]]:
    """Xavier-normal weights and zero biases, as in the authors' notebook. float64 on the CPU."""
    W = torch.randn(n_instances, n_hidden, n_features, generator=generator, dtype=torch.float64)
    return W * math.sqrt(2.0 / (n_hidden + n_features)), torch.zeros(n_instances, n_features, dtype=torch.float64)


def minimise(
    W: Float[Tensor, "instance hidden feature"],
    b: Float[Tensor, "instance feature"],
    data: Data,
    importance: Float[Tensor, "instance feature"],
    activation: Activation,
    *,
    steps: int,
    tolerance: float = 1e-9,
) -> Trained:
    """Descends from (W, b) for at most `steps` evaluations, or until each gradient is below `tolerance`.

    Loss never rises. UserError if a loss is not finite.
    """
    hidden = W.shape[1]

    def at(point: Float[Tensor, "instance parameter"]) -> tuple[Tensor, Tensor]:
        found = evaluate(*_unpack(point, hidden), data, importance, activation)
        return found.loss, _pack(found.grad_W, found.grad_b)

    point = _pack(W, b)
    loss, gradient = at(point)
    inverse = torch.eye(point.shape[1], dtype=point.dtype, device=point.device).repeat(len(point), 1, 1)
    fresh = torch.ones(len(point), dtype=torch.bool, device=point.device)  # inverse Hessian still the identity
    direction, rate = -gradient, torch.ones_like(loss)
    for step in range(steps):
        trial = point + rate[:, None] * direction
        trial_loss, trial_gradient = at(trial)
        if not bool(torch.isfinite(loss).all()):
            raise UserError(f"loss is not finite at step {step}; lower the importances or check the sample")
        slope = (gradient * direction).sum(1)
        taken = trial_loss <= loss + SUFFICIENT_DECREASE * rate * slope
        moved, turned = (trial - point) * taken[:, None], (trial_gradient - gradient) * taken[:, None]
        inverse, fresh = _update(inverse, fresh, moved, turned)
        point, loss = torch.where(taken[:, None], trial, point), torch.where(taken, trial_loss, loss)
        gradient = torch.where(taken[:, None], trial_gradient, gradient)
        direction = -einsum(inverse, gradient, "instance row column, instance column -> instance row")
        rate = torch.where(taken, 1.0, rate * SHRINK)
        lost = (rate < 1e-8) | ((gradient * direction).sum(1) >= 0)  # no progress: forget the curvature
        direction, rate = torch.where(lost[:, None], -gradient, direction), torch.where(lost, 1.0, rate)
        fresh = fresh | lost
        inverse = torch.where(lost[:, None, None], torch.eye(point.shape[1]).to(point), inverse)
        if step % 10 == 9 and bool((gradient.abs().amax(1) < tolerance).all()):
            break
    return Trained(*_unpack(point, hidden), loss, gradient.abs().amax(1))


def _update(
    inverse: Float[Tensor, "instance row column"],
    fresh: Tensor,
    moved: Float[Tensor, "instance row"],
    turned: Float[Tensor, "instance row"],
) -> tuple[Float[Tensor, "instance row column"], Tensor]:
    """BFGS update where the curvature is positive; the first update rescales the identity (eq. 6.20)."""
    curvature = (moved * turned).sum(1)
    good = curvature > 1e-12 * turned.square().sum(1).clamp(min=1e-300)
    safe = torch.where(good, curvature, 1.0)
    first = torch.where(good, safe / turned.square().sum(1).clamp(min=1e-300), 1.0)
    base = torch.where((good & fresh)[:, None, None], inverse * first[:, None, None], inverse)
    pushed = einsum(base, turned, "instance row column, instance column -> instance row")
    cross = einsum(pushed, moved, "instance row, instance column -> instance row column")
    outer = einsum(moved, moved, "instance row, instance column -> instance row column")
    factor = (1.0 + (turned * pushed).sum(1) / safe) / safe
    updated = base + factor[:, None, None] * outer - (cross + cross.mT) / safe[:, None, None]
    return torch.where(good[:, None, None], updated, inverse), fresh & ~good


def _pack(W: Tensor, b: Tensor) -> Float[Tensor, "instance parameter"]:
    return torch.cat([rearrange(W, "instance hidden feature -> instance (hidden feature)"), b], dim=1)


def _unpack(point: Float[Tensor, "instance parameter"], hidden: int) -> tuple[Tensor, Tensor]:
    n_features = point.shape[1] // (hidden + 1)
    W = rearrange(point[:, :-n_features], "instance (hidden feature) -> instance hidden feature", hidden=hidden)
    return W, point[:, -n_features:]
