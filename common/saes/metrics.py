"""Numbers that describe an SAE, each with the id of its formula, since libraries differ in what they call by one name.

Sums run over tokens in float64. `FORMULAS` is what `formula` of a metric says. Analytic cases (identity, mean, zero,
scaled, shifted, principal components, one-hot data) are in the tests.
"""

import operator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from common.core.errors import UserError

FORMULAS = {
    "l0": "l0: mean over tokens of the number of latents that are not 0",
    "fvu": "fvu: sum |x - x^|^2 / sum |x - mean x|^2, mean over the evaluation set, float64",
    "ev": "ev: 1 - fvu",
    "delta_ce": "delta_ce: cross-entropy with the activation replaced minus clean, nats per token",
    "recovered_mean": "loss_recovered_mean: (CE_mean-ablated - CE_sae) / (CE_mean-ablated - CE_clean)",
    "recovered_zero": "loss_recovered_zero: (CE_zero-ablated - CE_sae) / (CE_zero-ablated - CE_clean)",
    "kl": "kl: mean KL(clean || replaced) of next-token distributions",
    "dead": "dead: share of latents that are 0 on all tokens of the window",
    "mmcs": "mmcs: mean over true features of the largest cosine with a decoder row",
    "mcc": "mcc: mean absolute cosine of the pairs of a one-to-one matching of true features and decoder rows",
    "uniqueness": "uniqueness: distinct best features over living latents",
    "f1": "f1: mean over living latents of 2 TP / (2 TP + FP + FN) as detector of the feature nearest to their row",
}


class Moments(NamedTuple):
    """Sums over tokens, float64; add two of them for more tokens."""

    n: float
    x: Float[Tensor, " d"]
    xx: float
    ee: float

    def __add__(self, other: "Moments") -> "Moments":  # type: ignore[override]
        return Moments(*map(operator.add, self, other))

    @property
    def total(self) -> float:
        """sum |x - mean x|^2. UserError if all activations are equal."""
        total = self.xx - float(self.x.square().sum()) / self.n
        if total <= 1e-12 * max(self.xx, 1e-300):
            raise UserError("all activations are equal, so no share of their variance can be stated; use more tokens")
        return total

    @property
    def fvu(self) -> float:
        return self.ee / self.total


def moments(x: Float[Tensor, "token d"], found: Float[Tensor, "token d"]) -> Moments:
    """The sums for one piece of data."""
    x, found = x.double(), found.double()
    return Moments(float(len(x)), x.sum(0), float(x.square().sum()), float((x - found).square().sum()))


def fvu(x: Float[Tensor, "token d"], found: Float[Tensor, "token d"]) -> float:
    """Fraction of variance unexplained."""
    return moments(x, found).fvu


def principal(x: Float[Tensor, "token d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and principal directions (columns, largest variance first), from float64 covariances."""
    x = x.double()
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh((x - mean).mT @ (x - mean) / len(x))
    return mean.float(), vectors.flip(1).float()


def l0(latents: Float[Tensor, "*n d_sae"]) -> float:
    """Latents that are not 0, per token."""
    return float((latents != 0).sum(-1).double().mean())


def loss_recovered(clean: float, replaced: float, ablated: float) -> float:
    """1 for the clean loss, 0 for the ablated one. UserError if ablation costs nothing."""
    if ablated <= clean:
        raise UserError("the ablation does not raise the loss here, so recovered loss is not defined; state delta CE")
    return (ablated - replaced) / (ablated - clean)


def pathological_ratio(kl_sae: float, kl_random: float) -> float:
    """KL of the SAE's substitution over that of a random point at the same distance (Gurnee). UserError at no error."""
    if kl_random <= 0:
        raise UserError("a perfect reconstruction has no random point at the same distance; the ratio is not defined")
    return kl_sae / kl_random


class Recovery(NamedTuple):
    """How well a dictionary found known features."""

    mmcs: float
    mcc: float
    uniqueness: float


def recovery(features: Float[Tensor, "feature d"], W_dec: Float[Tensor, "d_sae d"]) -> Recovery:
    """Compares decoder rows with true directions."""
    cosine = cosines(features, W_dec)
    left, right = linear_sum_assignment(-cosine.abs().numpy())
    matched = float(cosine.abs()[left, right].mean())
    distinct = len(torch.unique(cosine.argmax(0))) / len(W_dec)
    return Recovery(float(cosine.max(1).values.mean()), matched, distinct)


def detection(
    latents: Float[Tensor, "sample d_sae"], active: Bool[Tensor, "sample feature"], best: Int[Tensor, " d_sae"]
) -> float:
    """F1 of latents as detectors of their features `best`; 0 if no latent fires."""
    fires = latents != 0
    alive = fires.any(0)
    fires, best = fires[:, alive], best[alive]
    if len(best) == 0:
        return 0.0
    both = (fires & active[:, best]).sum(0)
    return float((2 * both / (fires.sum(0) + active.sum(0)[best])).double().mean())


def cosines(a: Float[Tensor, "m d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    """All cosines between two sets of rows; zero rows have cosine 0."""
    unit_a = a / a.norm(dim=1, keepdim=True).clamp(min=1e-12)
    unit_b = b / b.norm(dim=1, keepdim=True).clamp(min=1e-12)
    found: Tensor = unit_a @ unit_b.mT
    return found
