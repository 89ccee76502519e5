"""The toy models of superposition (Elhage et al. 2022, arXiv 2209.10652, section 2) and their loss, many at a time.

A model squeezes n features through m < n hidden units and reads them out with the same weights,
x' = f(W^T W x + b), with f = ReLU or, for the linear control, the identity. Its loss is the paper's importance-weighted
squared error, summed over features: L = E sum_i I_i (x_i - x'_i)^2. (The authors' notebook takes the mean over
features instead; its losses are n times smaller.)

Models train side by side on a leading `instance` axis. All instances that share one data set (a density and a seed) are
neighbours on that axis, so the data are stored once per data set: instance = (dataset, copy), dataset slowest.
Gradients are written out; a test compares them with autograd and with a loop over single samples.
"""

from typing import Literal, NamedTuple

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

Activation = Literal["relu", "linear"]


class Data(NamedTuple):
    """Weighted points; the weights of one data set sum to 1, so a weighted sum is an expectation."""

    x: Float[Tensor, "dataset feature sample"]
    weight: Float[Tensor, "dataset sample"]


class Evaluation(NamedTuple):
    """Loss and gradient of every instance."""

    loss: Float[Tensor, " instance"]
    grad_W: Float[Tensor, "instance hidden feature"]
    grad_b: Float[Tensor, "instance feature"]


def sample(density: float, n_features: int, n_samples: int, seed: int) -> Data:
    """Points with the paper's distribution: x_i = 0 with probability 1 - density, else uniform on [0, 1].

    Two things make a small fixed sample stand for the paper's endless stream. The all-zero point, most of the stream
    when features are sparse, is one row that carries its exact probability; the other rows are drawn given that some
    feature is active: the first active feature from a truncated geometric distribution, later ones independently. And
    the uniforms behind the rows are a scrambled Sobol sequence (`seed` scrambles it), each row correctly distributed,
    the set more even than independent draws. One data set of float64 on the CPU; `n_samples` counts the zero row.
    """
    engine = torch.quasirandom.SobolEngine(n_features + 1, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    u = rearrange(engine.draw(n_samples - 1, dtype=torch.float64), "sample dimension -> dimension sample")
    some = 1.0 - (1.0 - density) ** n_features
    position = torch.arange(n_features, dtype=torch.float64)
    at_or_before = (1.0 - (1.0 - density) ** (position + 1)) / some
    first = torch.searchsorted(at_or_before, u[0].clone()).clamp(max=n_features - 1)
    place = rearrange(torch.arange(n_features), "feature -> feature 1")
    later = torch.where(u[1:] < density, u[1:] / density, 0.0)
    x = torch.where(place == first, u[1:], torch.where(place > first, later, 0.0))
    x = torch.cat([torch.zeros(n_features, 1, dtype=torch.float64), x], dim=1)
    weight = torch.full((n_samples,), some / (n_samples - 1), dtype=torch.float64)
    weight[0] = 1.0 - some
    return Data(rearrange(x, "feature sample -> 1 feature sample"), rearrange(weight, "sample -> 1 sample"))


def stack(data: list[Data]) -> Data:
    """Joins data sets of one size along the dataset axis."""
    return Data(torch.cat([one.x for one in data]), torch.cat([one.weight for one in data]))


def evaluate(
    W: Float[Tensor, "instance hidden feature"],
    b: Float[Tensor, "instance feature"],
    data: Data,
    importance: Float[Tensor, "instance feature"],
    activation: Activation,
) -> Evaluation:
    """Exact loss and gradient over the weighted sample. Units: importance times squared feature value."""
    sets = data.x.shape[0]
    x = data.x
    W = rearrange(W, "(dataset copy) hidden feature -> dataset copy hidden feature", dataset=sets)
    hidden = einsum(W, x, "dataset copy hidden feature, dataset feature sample -> dataset copy hidden sample")
    bias = rearrange(b, "(dataset copy) feature -> dataset copy feature 1", dataset=sets)
    output = einsum(W, hidden, "dataset copy hidden feature, dataset copy hidden sample -> dataset copy feature sample")
    output = output.add_(bias)
    if activation == "relu":
        output = output.relu_()
    error = output - rearrange(x, "dataset feature sample -> dataset 1 feature sample")
    scaled = error * rearrange(data.weight, "dataset sample -> dataset 1 1 sample")
    per_feature = einsum(
        error, scaled, "dataset copy feature sample, dataset copy feature sample -> dataset copy feature"
    )
    scale = rearrange(importance, "(dataset copy) feature -> dataset copy feature", dataset=sets)
    signal = scaled.mul_(rearrange(2.0 * scale, "dataset copy feature -> dataset copy feature 1"))
    if activation == "relu":
        signal = signal.mul_(output > 0)
    back = einsum(W, signal, "dataset copy hidden feature, dataset copy feature sample -> dataset copy hidden sample")
    through_output = einsum(
        hidden, signal, "dataset copy hidden sample, dataset copy feature sample -> dataset copy hidden feature"
    )
    through_input = einsum(back, x, "dataset copy hidden sample, dataset feature sample -> dataset copy hidden feature")
    return Evaluation(
        reduce(per_feature * scale, "dataset copy feature -> (dataset copy)", "sum"),
        rearrange(through_output + through_input, "dataset copy hidden feature -> (dataset copy) hidden feature"),
        reduce(signal, "dataset copy feature sample -> (dataset copy) feature", "sum"),
    )
