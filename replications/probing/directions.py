"""Directions that read a label from a residual stream, and how well they read it."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

LOGISTIC_C = 0.1


def mean_difference(
    x: Float[Tensor, "*layer item d_model"], true: Bool[Tensor, " item"]
) -> Float[Tensor, "*layer d_model"]:
    """Mean of the true ones minus mean of the false ones, which is also how far a patch moves."""
    return x[..., true, :].mean(-2) - x[..., ~true, :].mean(-2)


def logistic(x: Float[Tensor, "item d_model"], true: Bool[Tensor, " item"]) -> Float[Tensor, " d_model"]:
    """Weights of a logistic regression on standardised coordinates, in the stream's own coordinates."""
    from sklearn.linear_model import LogisticRegression

    scale = x.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=LOGISTIC_C, max_iter=1000).fit(((x - x.mean(0)) / scale).numpy(), true.numpy())
    return torch.from_numpy(fitted.coef_[0]).to(x.dtype) / scale


def placements(scores: Float[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """For each statement, the share of the other kind that it stands on the right side of, ties counted half.

    The mean over as many true as false ones is the area under the ROC curve.
    """
    right = np.sign(scores[true][:, None] - scores[~true][None, :]) / 2 + 0.5
    found = np.empty(len(scores))
    found[true], found[~true] = right.mean(1), right.mean(0)
    return found
