"""How features share a hidden space: the paper's per-feature measures of a weight matrix W (columns W_i).

Norm ||W_i||: about 1 for a stored feature, 0 for a forgotten one. Superposition of feature i: sum over j != i of
(What_i . W_j)^2, with What_i the unit vector: 0 when no other stored feature overlaps it. Dimensionality
D_i = ||W_i||^2 / sum over all j (j = i included) of (What_i . W_j)^2: the share of a dimension that feature i has.
Features with a norm below `FORGOTTEN` count as not stored and get D_i = 0.

Cauchy-Schwarz gives 0 <= D_i <= 1 and sum_i D_i <= rank W for every matrix whatsoever. `checked_dimensionality` is used
on every trained model, so a wrong formula cannot pass unnoticed.
"""

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor

FORGOTTEN = 0.1  # norm below which a feature counts as not stored
HALF = 0.5  # norm above which a feature counts as stored, if not with full strength
STORED = 0.9  # norm above which it counts as stored with full strength
TOGETHER = 0.95  # cosine above which a pair counts as one direction
SLACK = 1e-5  # rounding allowed in the theorem


def norms(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch feature"]:
    """||W_i|| of every feature."""
    return W.square().sum(-2).sqrt()


def overlaps(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch feature other"]:
    """(What_i . W_j)^2 for all pairs; 0 in the row of a zero column."""
    unit = W / norms(W).clamp(min=1e-12)[..., None, :]
    return einsum(unit, W, "... hidden feature, ... hidden other -> ... feature other").square()


def superposition(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch feature"]:
    """sum over j != i of (What_i . W_j)^2: 0 alone, 1 if others drive its direction as strongly as itself."""
    every = overlaps(W)
    return every.sum(-1) - every.diagonal(dim1=-2, dim2=-1)


def dimensionality(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch feature"]:
    """D_i in hidden dimensions, 0 to 1; 0 for a forgotten feature.

    The sum of overlaps is What_i^T G What_i with the small matrix G = W W^T: there are too many pairs of features.
    """
    size = norms(W)
    unit = W / size.clamp(min=1e-12)[..., None, :]
    crowd = einsum(unit, W @ W.mT, unit, "... hidden feature, ... hidden other, ... other feature -> ... feature")
    return torch.where(size < FORGOTTEN, 0.0, size.square() / crowd.clamp(min=1e-24))


def checked_dimensionality(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch feature"]:
    """`dimensionality`, after testing sum_i D_i <= rank W on every matrix. ArithmeticError if it fails: a bug."""
    shares = dimensionality(W)
    rank = torch.linalg.matrix_rank(W)
    excess = float((shares.sum(-1) - rank).max())
    if excess > SLACK or float(shares.max()) > 1 + SLACK:
        raise ArithmeticError(
            f"dimensionalities exceed the rank by {excess:.2g}: the formula or the weights are broken"
        )
    return shares


def dims_per_feature(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """D* = m / ||W||_F^2: hidden dimensions per stored feature."""
    return W.shape[-2] / reduce(W.square(), "... hidden feature -> ...", "sum").clamp(min=1e-24)


def stored(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Number of features stored with full strength."""
    return (norms(W) > STORED).double().sum(-1)


def partner_cosines(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch set"]:
    """Cosine of the two members of every set of two; neighbours on the feature axis form a set."""
    unit = W / norms(W).clamp(min=1e-12)[..., None, :]
    return (unit[..., 0::2] * unit[..., 1::2]).sum(-2)


def collapsed(W: Float[Tensor, "*batch hidden feature"]) -> Float[Tensor, "*batch"]:
    """Number of pairs stored as one direction."""
    size = norms(W)
    stored = torch.minimum(size[..., 0::2], size[..., 1::2]) > HALF
    return ((partner_cosines(W) > TOGETHER) & stored).double().sum(-1)


def within(W: Float[Tensor, "hidden feature"]) -> float:
    """Share of all overlaps between different features that lies within sets; two sets of neighbours."""
    half = W.shape[1] // 2
    every = overlaps(W).clone().fill_diagonal_(0.0)
    return float((every[:half, :half].sum() + every[half:, half:].sum()) / every.sum())


def canonical(W: Float[Tensor, "2 feature"]) -> Float[Tensor, "2 feature"]:
    """The same arrangement, turned so that feature 0 points right, and mirrored so that the next stored one is above.

    The loss does not see rotations and reflections of the hidden plane; pictures do.
    """
    angle = torch.atan2(W[1, 0], W[0, 0])
    cos, sin = torch.cos(angle), torch.sin(angle)
    turned = torch.stack([cos * W[0] + sin * W[1], -sin * W[0] + cos * W[1]])
    off_axis = [i for i in range(1, W.shape[1]) if abs(float(turned[1, i])) > FORGOTTEN]
    if off_axis and float(turned[1, off_axis[0]]) < 0:
        turned = turned * torch.tensor([[1.0], [-1.0]], dtype=W.dtype)
    return turned
