"""The toy models of superposition (Elhage et al. 2022, arXiv 2209.10652, section 2) and their loss, many at a time.

A model squeezes n features through m < n hidden units and reads them out with the same weights, x' = f(W^T W x + b). f
is the ReLU or, for the linear control, the identity. With `relu_hidden` the hidden units have a ReLU too, h = ReLU(W
x), which gives them a privileged basis (section 7). The loss is the paper's importance-weighted squared error, summed
over features: L = E sum_i I_i (x_i - x'_i)^2. (The authors' notebook takes the mean over features instead; its losses
are n times smaller.)

Models train side by side on a leading `instance` axis. All instances that share one data set (a density and a seed) are
neighbours on that axis. So the data are stored once per data set. An instance is (dataset, copy), dataset slowest.
Gradients are written out; a test compares them with autograd and with a loop over single samples.
"""

from typing import Literal, NamedTuple

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

Activation = Literal["relu", "linear", "relu_hidden"]


class Data(NamedTuple):
    """Weighted points; the weights of one data set sum to 1, so a weighted sum is an expectation."""

    x: Float[Tensor, "dataset feature sample"]
    weight: Float[Tensor, "dataset sample"]


class Evaluation(NamedTuple):
    """Loss and gradient of every instance."""

    loss: Float[Tensor, " instance"]
    grad_W: Float[Tensor, "instance hidden feature"]
    grad_b: Float[Tensor, "instance feature"]


def sample(density: float | Float[Tensor, " feature"], n_features: int, n_samples: int, seed: int) -> Data:
    """Points with the paper's distribution: x_i = 0 with probability 1 - density, else uniform on [0, 1].

    Two things make a small fixed sample stand for the paper's endless stream. The all-zero point, most of the stream
    when features are sparse, is one row that carries its exact probability. The other rows are drawn given that some
    feature is active: the first active feature from a truncated geometric distribution, later ones independently. And
    the uniforms behind the rows are a scrambled Sobol sequence (`seed` scrambles it), each row correctly distributed,
    the set more even than independent draws. One data set of float64 on the CPU; `n_samples` counts the zero row.
    """
    return _weighted(*_some_active(_uniforms(n_features + 1, n_samples - 1, seed), density))


def sample_sets(
    density: float, n_sets: int, members: int, n_samples: int, seed: int, kind: Literal["correlated", "exclusive"]
) -> Data:
    """Features in sets (section 4, correlated features); those of a set are neighbours on the feature axis.

    Each set is active with probability `density`. In a `correlated` set all members are then active, with independent
    values. In an `exclusive` (anti-correlated) set one random member is, so that a member's density is density/members.
    """
    n_values = n_sets * members if kind == "correlated" else 2 * n_sets
    u = _uniforms(1 + n_sets + n_values, n_samples - 1, seed)
    on, some = _some_active(u[: 1 + n_sets], density)
    active = rearrange(on > 0, "set sample -> set 1 sample")
    if kind == "correlated":
        values = rearrange(u[1 + n_sets :], "(set member) sample -> set member sample", set=n_sets)
    else:
        value, which = rearrange(u[1 + n_sets :], "(half set) sample -> half set 1 sample", half=2)
        active = active & ((members * which).long() == rearrange(torch.arange(members), "member -> member 1"))
        values = value
    x = torch.where(active, values, 0.0)
    return _weighted(rearrange(x, "set member sample -> (set member) sample"), some)


def _uniforms(dimensions: int, n_samples: int, seed: int) -> Float[Tensor, "dimension sample"]:
    engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    return rearrange(engine.draw(n_samples, dtype=torch.float64), "sample dimension -> dimension sample")


def _some_active(
    u: Float[Tensor, "dimension sample"], density: float | Float[Tensor, " feature"]
) -> tuple[Float[Tensor, "feature sample"], float]:
    """Points given that some feature is active, from one uniform more than features; probability of that event."""
    n_features = u.shape[0] - 1
    if isinstance(density, float):
        none = (1.0 - density) ** torch.arange(1, n_features + 1, dtype=torch.float64)
        some = 1.0 - (1.0 - density) ** n_features
    else:
        none = torch.cumprod(1.0 - density, 0)
        some = 1.0 - float(none[-1])
        density = density[:, None]
    first = torch.searchsorted((1.0 - none) / some, u[0].clone()).clamp(max=n_features - 1)
    place = rearrange(torch.arange(n_features), "feature -> feature 1")
    later = torch.where(u[1:] < density, u[1:] / density, 0.0)
    return torch.where(place == first, u[1:], torch.where(place > first, later, 0.0)), some


def _weighted(x: Float[Tensor, "feature sample"], some: float) -> Data:
    """Adds the zero point: one data set whose weights sum to 1."""
    x = torch.cat([torch.zeros(x.shape[0], 1, dtype=torch.float64), x], dim=1)
    weight = torch.full((x.shape[1],), some / (x.shape[1] - 1), dtype=torch.float64)
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
    """Exact loss and gradient over the weighted sample. Units: importance times squared feature value.

    Both activations are homogeneous: with the point and the bias c times as large, c >= 0, the output is c times as
    large. So every point is scaled by the root of its weight, after which all sums are plain sums. The bias is the
    output weight of one more hidden unit, whose value is that root. This halves the passes over memory.
    """
    sets = data.x.shape[0]
    root = rearrange(data.weight.sqrt(), "dataset sample -> dataset 1 sample")
    x = torch.cat([data.x * root, root], dim=1)
    W = rearrange(W, "(dataset copy) hidden feature -> dataset copy hidden feature", dataset=sets)
    bias = rearrange(b, "(dataset copy) feature -> dataset copy 1 feature", dataset=sets)
    into = pad(W, (0, 1, 0, 1))
    into[..., -1, -1] = 1.0
    hidden = einsum(into, x, "dataset copy hidden feature, dataset feature sample -> dataset copy hidden sample")
    x = x[:, :-1]
    if activation == "relu_hidden":
        hidden = hidden.relu_()
    outof = torch.cat([W, bias], dim=2)
    output = einsum(
        outof, hidden, "dataset copy hidden feature, dataset copy hidden sample -> dataset copy feature sample"
    )
    if activation != "linear":
        output = output.relu_()
    error = output - rearrange(x, "dataset feature sample -> dataset 1 feature sample")
    signal = error if activation == "linear" else _masked(error, output)
    scale = rearrange(importance, "(dataset copy) feature -> dataset copy feature", dataset=sets)
    per_feature = torch.linalg.vector_norm(error, dim=-1).square() * scale
    twice = rearrange(2.0 * scale, "dataset copy feature -> dataset copy 1 feature")
    through_output = twice * einsum(
        hidden, signal, "dataset copy hidden sample, dataset copy feature sample -> dataset copy hidden feature"
    )
    back = einsum(
        W * twice, signal, "dataset copy hidden feature, dataset copy feature sample -> dataset copy hidden sample"
    )
    if activation == "relu_hidden":
        back = _masked(back, hidden[:, :, :-1])
    through_input = einsum(back, x, "dataset copy hidden sample, dataset feature sample -> dataset copy hidden feature")
    grad_W = through_output[:, :, :-1] + through_input
    return Evaluation(
        reduce(per_feature, "dataset copy feature -> (dataset copy)", "sum"),
        rearrange(grad_W, "dataset copy hidden feature -> (dataset copy) hidden feature"),
        rearrange(through_output[:, :, -1], "dataset copy feature -> (dataset copy) feature"),
    )


def _masked(value: Tensor, unit: Tensor) -> Tensor:
    """`value` where `unit` is positive, else 0: the backward pass of a ReLU, in one pass over memory."""
    masked: Tensor = torch.ops.aten.threshold_backward(value, unit, 0)
    return masked
