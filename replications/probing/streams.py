"""Residual streams of many token windows at several layers, and affine maps fitted to them in closed form."""
# mypy: allow-untyped-calls

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.interp.decoder import Decoder

BATCH = 16


def layers_of(decoder: Decoder, every: int) -> list[int]:
    """Every so many layers, and the stream after the last block (index `n_layers`)."""
    return [*range(0, decoder.n_layers, every), decoder.n_layers]


@torch.no_grad()
def streams(
    decoder: Decoder, tokens: Int[Tensor, "window pos"], real: Bool[Tensor, "window pos"], layers: list[int]
) -> Float[Tensor, "layer window pos d_model"]:
    """`blocks.<layer>.hook_resid_pre` at all positions; index `n_layers` is the last block's `hook_resid_post`."""
    found = []
    for rows, mask in zip(tokens.split(BATCH), real.split(BATCH), strict=True):
        cache = decoder.forward(rows, mask, keep=True)
        every = [*cache.resid_pre, cache.final]
        found.append(torch.stack([every[layer] for layer in layers]))
    return torch.cat(found, 1)


class Affine(NamedTuple):
    """x -> x @ weight + bias."""

    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"]

    def __call__(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        return x @ self.weight + self.bias


def ridge(x: Float[Tensor, "item d_in"], y: Float[Tensor, "item d_out"], strength: float) -> Affine:
    """Least squares with a penalty of `strength` times the mean variance of a coordinate; the bias is free."""
    wide, target = x.double(), y.double()
    mean, aim = wide.mean(0), target.mean(0)
    centred = wide - mean
    covariance = centred.T @ centred / len(x)
    covariance.diagonal().add_(strength * covariance.diagonal().mean())
    weight = torch.linalg.solve(covariance, centred.T @ (target - aim) / len(x))
    return Affine(weight.to(x.dtype), (aim - mean @ weight).to(x.dtype))
