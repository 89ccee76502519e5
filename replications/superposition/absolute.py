"""Computation in superposition (Elhage et al. 2022, section 8): |x| through one hidden layer.

Features are as everywhere here, but on [-1, 1]: zero with probability 1 - s, else a uniform size with a random sign.
The model is untied, h = ReLU(W1 x), y' = ReLU(W2 h + b), and the target y = |x|; the control has h = W1 x. One feature
alone needs two hidden units, one for x and one for -x. Loss as in `model`: E sum_i I_i (y_i - y'_i)^2.
"""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from replications.superposition.model import Data
from replications.superposition.streams import START, with_gradient

Weights = dict[str, Tensor]
Hidden = Literal["relu", "linear"]
SMALL = 0.1
"""Factor on Xavier's starting weights. Starts of full size leave half of the most important features with one unit
instead of two, a state that training does not leave in the steps we have."""


def start_weights(instances: int, n_hidden: int, n_features: int, seed: int) -> Weights:
    """Small random weights, biases 0."""
    generator = torch.Generator().manual_seed(START + seed)
    scale = SMALL * (2 / (n_hidden + n_features)) ** 0.5
    W1 = scale * torch.randn(instances, n_hidden, n_features, generator=generator)
    W2 = scale * torch.randn(instances, n_features, n_hidden, generator=generator)
    return {"W1": W1, "W2": W2, "b": torch.zeros(instances, n_features)}


def absolute_loss(
    weights: Weights, data: Data, importance: Float[Tensor, " feature"], hidden: Hidden
) -> Float[Tensor, " instance"]:
    """Importance-weighted squared error against |x|, with its gradient; one data set per instance."""
    with torch.no_grad():
        loss, gradients = _evaluate(weights, data, importance, hidden)
    return with_gradient(loss, weights, gradients)


def _evaluate(
    weights: Weights, data: Data, importance: Float[Tensor, " feature"], hidden: Hidden
) -> tuple[Float[Tensor, " instance"], Weights]:
    W1, W2, b = (weights[name] for name in ("W1", "W2", "b"))
    h = torch.bmm(W1, data.x)
    if hidden == "relu":
        h = h.relu_()
    output = torch.baddbmm(rearrange(b, "instance feature -> instance feature 1"), W2, h).relu_()
    error = output - data.x.abs()
    weighted = error * rearrange(data.weight, "instance sample -> instance 1 sample")
    loss = (error * weighted).sum(-1) @ importance
    signal = torch.ops.aten.threshold_backward(weighted, output, 0)  # where the output is not cut off
    twice = rearrange(2.0 * importance, "feature -> feature 1")
    back = torch.bmm((twice * W2).mT, signal)
    if hidden == "relu":
        back = torch.ops.aten.threshold_backward(back, h, 0)
    grad_W2 = twice * torch.bmm(signal, h.mT)
    return loss, {"W1": torch.bmm(back, data.x.mT), "W2": grad_W2, "b": signal.sum(-1) * twice[:, 0]}


def zero_answer_loss(
    densities: Float[Tensor, " density"], importance: Float[Tensor, " feature"]
) -> Float[Tensor, " density"]:
    """Loss of a model that answers 0: s / 3 for every feature, times its importance."""
    return densities / 3 * importance.sum()
