"""Trains many toy models at once: batched quasi-Newton descent (BFGS) on a fixed sample.

A model here has a handful of parameters, so every instance keeps its own dense inverse Hessian. One evaluation of loss
and gradient serves all instances. The line search is asynchronous. After each evaluation an instance with sufficient
decrease (Nocedal and Wright eq. 3.4) takes its trial step and updates its Hessian (eq. 6.17). Any other halves the step
and tries again in the next evaluation.
"""

import math
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from replications.superposition.model import Activation, Data, evaluate

SUFFICIENT_DECREASE = 1e-4
SHRINK = 0.5
EVERY, MOST_KEPT = 5, 0.9  # how often finished instances are put aside, if so many at most remain


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
    W: Float[Tensor, "instance row feature"],
    b: Float[Tensor, "instance feature"],
    data: Data,
    importance: Float[Tensor, "instance feature"],
    activation: Activation,
    *,
    steps: int,
    tolerance: float = 1e-9,
    directions: Float[Tensor, "instance hidden feature"] | None = None,
) -> Trained:
    """Descends from (W, b) for at most `steps` evaluations. A row of W is a hidden unit; with `directions` W
    has one row, the lengths of columns that keep these directions.

    An instance ends before that when its gradient is below `tolerance`, or when the next step promises less than the
    rounding error of its loss. Loss never rises. UserError if a loss is not finite.
    """
    hidden, sets = W.shape[1], data.x.shape[0]
    point = _pack(W, b)
    ended = (point.clone(), torch.zeros_like(point[:, 0]), torch.zeros_like(point[:, 0]))  # all instances
    going, scale, along = torch.arange(len(point), device=point.device), importance, directions  # those that descend

    def at(point: Float[Tensor, "instance parameter"]) -> tuple[Tensor, Tensor]:
        W, b = _unpack(point, hidden)
        if along is None:
            found = evaluate(W, b, data, scale, activation)
            return found.loss, _pack(found.grad_W, found.grad_b)
        found = evaluate(along * W, b, data, scale, activation)
        return found.loss, _pack((along * found.grad_W).sum(1, keepdim=True), found.grad_b)

    loss, gradient = at(point)
    identity = torch.eye(point.shape[1], dtype=point.dtype, device=point.device)
    inverse = identity.repeat(len(point), 1, 1)
    done = torch.zeros(len(point), dtype=torch.bool, device=point.device)
    fresh = ~done  # inverse Hessian still the identity
    direction, rate = -gradient, torch.ones_like(loss)
    precision = torch.finfo(point.dtype).eps
    for step in range(steps):
        trial = point + rate[:, None] * direction
        trial_loss, trial_gradient = at(trial)
        if not bool(torch.isfinite(loss).all()):
            raise UserError(f"loss is not finite at step {step}; lower the importances or check the sample")
        slope = (gradient * direction).sum(1)
        taken = (trial_loss <= loss + SUFFICIENT_DECREASE * rate * slope) & ~done
        moved, turned = (trial - point) * taken[:, None], (trial_gradient - gradient) * taken[:, None]
        inverse, fresh = _update(inverse, fresh, moved, turned)
        point, loss = torch.where(taken[:, None], trial, point), torch.where(taken, trial_loss, loss)
        gradient = torch.where(taken[:, None], trial_gradient, gradient)
        direction = -einsum(inverse, gradient, "instance row column, instance column -> instance row")
        rate = torch.where(taken, 1.0, rate * SHRINK)
        slope = (gradient * direction).sum(1)
        lost = (rate < 1e-8) | (slope >= 0)  # no progress: forget the curvature
        done = done | (gradient.abs().amax(1) < tolerance) | (~fresh & ~lost & (-slope * rate < precision * loss))
        direction, rate = torch.where(lost[:, None], -gradient, direction), torch.where(lost, 1.0, rate)
        fresh = fresh | lost
        inverse = torch.where(lost[:, None, None], identity, inverse)
        if step % EVERY == EVERY - 1 or step == steps - 1:
            for whole, part in zip(ended, (point, loss, gradient.abs().amax(1)), strict=True):
                whole[going] = part
            keep = _unfinished(done, sets)
            if len(keep) < MOST_KEPT * len(going):
                going, done, fresh, inverse = going[keep], done[keep], fresh[keep], inverse[keep]
                point, loss, gradient = point[keep], loss[keep], gradient[keep]
                direction, rate, scale = direction[keep], rate[keep], scale[keep]
                along = None if along is None else along[keep]
            if not len(going):
                break
    return Trained(*_unpack(ended[0], hidden), *ended[1:])


def _unfinished(done: Bool[Tensor, " instance"], sets: int) -> Int[Tensor, " unfinished"]:
    """Places of the instances that go on; every data set keeps as many as the one with most of them has unfinished."""
    table = rearrange(done, "(dataset copy) -> dataset copy", dataset=sets).int()
    most = int((1 - table).sum(1).max())
    copies = table.argsort(dim=1, stable=True)[:, :most].sort(dim=1).values
    first = torch.arange(sets, device=done.device)[:, None] * table.shape[1]
    return rearrange(copies + first, "dataset copy -> (dataset copy)")


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
