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
from replications.superposition.streams import START

Weights = dict[str, Tensor]
Hidden = Literal["relu", "linear"]
SMALL = 0.1
"""Factor on Xavier's starting weights. Starts of full size leave half of the most important features with one unit
instead of two, a state that training does not leave in the steps we have."""


def starts(instances: int, n_hidden: int, n_features: int, seed: int) -> Weights:
    """Small random weights, biases 0."""
    generator = torch.Generator().manual_seed(START + seed)
    scale = SMALL * (2 / (n_hidden + n_features)) ** 0.5
    W1 = scale * torch.randn(instances, n_hidden, n_features, generator=generator)
    W2 = scale * torch.randn(instances, n_features, n_hidden, generator=generator)
    return {"W1": W1, "W2": W2, "b": torch.zeros(instances, n_features)}


def absolute_loss(
    weights: Weights, data: Data, importance: Float[Tensor, " feature"], hidden: Hidden
) -> Float[Tensor, " instance"]:
    """Importance-weighted squared error against |x|; one data set per instance."""
    h = torch.bmm(weights["W1"], data.x)
    if hidden == "relu":
        h = h.relu()
    output = torch.baddbmm(rearrange(weights["b"], "instance feature -> instance feature 1"), weights["W2"], h).relu()
    error = (output - data.x.abs()).square()
    return torch.bmm(error, rearrange(data.weight, "instance sample -> instance sample 1"))[..., 0] @ importance


def dropped(densities: Float[Tensor, " density"], importance: Float[Tensor, " feature"]) -> Float[Tensor, " density"]:
    """Loss of a model that answers 0: s / 3 for every feature, times its importance."""
    return densities / 3 * importance.sum()
