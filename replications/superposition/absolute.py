"""Computation in superposition (Elhage et al. 2022, section 8): |x| through one hidden layer, and its exact reference.

Features are as everywhere here, but on [-1, 1]: zero with probability 1 - s, else a uniform size with a random sign.
The model is untied, h = ReLU(W1 x), y' = ReLU(W2 h + b), and the target y = |x|; the control has h = W1 x. Loss as in
`model`: E sum_i I_i (y_i - y'_i)^2.

The best monosemantic solution, in which every hidden unit reads one feature, is exact. The m / 2 most important
features get two units each, one for x and one for -x, and are answered without error. Of every other feature nothing is
known: its best constant answer, s / 2, leaves the variance v(s) = s/3 - s^2/4. A feature with one unit loses more than
v(s) / 2 at every density, so it pays to give units in pairs.
"""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from replications.superposition.geometry import FORGOTTEN
from replications.superposition.model import Data
from replications.superposition.streams import START, with_gradient

Weights = dict[str, Tensor]
Hidden = Literal["relu", "linear"]
SERVED = 0.25  # share of a unit's largest input weight above which it serves a feature


def start_weights(instances: int, n_hidden: int, n_features: int, scale: float, seed: int) -> Weights:
    """Xavier-normal input weights times `scale`, output weights their absolute values, biases 0.

    With output weights of either sign the last ReLU cuts off most answers at the start. At low density their features
    never get a gradient. So models of random output weights end above the best monosemantic solution.
    """
    generator = torch.Generator().manual_seed(START + seed)
    W1 = scale * (2 / (n_hidden + n_features)) ** 0.5
    W1 = W1 * torch.randn(instances, n_hidden, n_features, generator=generator)
    return {"W1": W1, "W2": W1.mT.abs().contiguous(), "b": torch.zeros(instances, n_features)}


def random_codes(instances: int, n_hidden: int, n_features: int, seed: int) -> Float[Tensor, "instance hidden feature"]:
    """Input weights that nothing has learned: each of the `n_hidden` most important features in a few random units,
    with weights of 1 or -1 and each sign at least once. How many units is drawn for every model, 2 to 6."""
    generator = torch.Generator().manual_seed(START + seed)
    W1 = torch.zeros(instances, n_hidden, n_features)
    for codes in W1:
        units = int(torch.randint(2, min(6, n_hidden) + 1, (), generator=generator))
        for feature in range(min(n_hidden, n_features)):
            signs = 1.0 - 2.0 * torch.randint(2, (units,), generator=generator)
            signs[:2] = torch.tensor([1.0, -1.0])
            codes[torch.randperm(n_hidden, generator=generator)[:units], feature] = signs
    return W1


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


def monosemantic_loss(
    densities: Float[Tensor, " density"], importance: Float[Tensor, " feature"], n_hidden: int
) -> Float[Tensor, " density"]:
    """Loss of the best monosemantic solution, v(s) sum_{i >= m / 2} I_i; importances fall, m is even."""
    return (densities / 3 - densities.square() / 4) * importance[n_hidden // 2 :].sum()


def serves(W1: Float[Tensor, "*batch hidden feature"]) -> Bool[Tensor, "*batch hidden feature"]:
    """Which features a unit serves; units without weights serve none."""
    size = W1.abs()
    largest = size.amax(-1, keepdim=True)
    return (size > SERVED * largest) & (largest > FORGOTTEN)


def polysemantic(W1: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Number of hidden units that serve several features."""
    return (serves(W1).sum(-1) >= 2).double().sum(-1)


def asymmetry(
    W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"], generator: torch.Generator | None = None
) -> float:
    """The paper's motif, input weights [2, -1/2] with output weights [1/2, 2], as one number.

    Minus the correlation of ln |input weight| with ln(output weight), both relative to their mean over the features
    that a unit serves and excites. It is 1 if output weights make up for uneven input weights. With a `generator`,
    output weights are permuted within each unit. 0 if no unit excites two features.
    """
    into, outof = [], []
    for weights, out, kept in zip(W1.abs(), W2.T, serves(W1) & (FORGOTTEN * W2.max() < W2.T), strict=True):
        places = kept.nonzero()[:, 0]
        if len(places) < 2:
            continue
        a, b = weights[places].log(), out[places].log()
        if generator is not None:
            b = b[torch.randperm(len(b), generator=generator)]
        into.append(a - a.mean())
        outof.append(b - b.mean())
    if not into:
        return 0.0
    a, b = torch.cat(into), torch.cat(outof)
    return -float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def inhibition(
    W1: Float[Tensor, "hidden feature"], W2: Float[Tensor, "feature hidden"], order: Int[Tensor, " hidden"]
) -> float:
    """Share of positive interference that inhibiting units take away again, so that the last ReLU removes it.

    Interference is what one feature at 1 or at -1 adds to the answers of others through units that excite them. Unit k
    inhibits with the weights of unit `order[k]`; 0 if there is no interference.
    """
    drive = torch.stack([W1.relu(), (-W1).relu()])  # [sign hidden active]
    others = 1.0 - torch.eye(len(W2), dtype=W2.dtype)
    raised, lowered = others * (W2.relu() @ drive), others * ((-W2).relu()[:, order] @ drive)
    return float(1.0 - (raised - lowered).relu().sum() / raised.sum()) if bool(raised.any()) else 0.0
