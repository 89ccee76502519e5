"""Which frequency a neuron carries, how purely, and with which phase (Nanda et al. 2023, section 4; Gromov 2023).

The discrete Fourier transform runs over the p numbers; the constant term is left out, as in both papers.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Spectrum(NamedTuple):
    """Of every neuron: its strongest frequency over U, V and W together, that frequency's share of the power of each
    of the three vectors (the smallest of the three), and the phase of each at that frequency, in radians."""

    frequency: Int[Tensor, "instance neuron"]
    purity: Float[Tensor, "instance neuron"]
    phases: Float[Tensor, "vector instance neuron"]


def spectrum(
    U: Float[Tensor, "instance prime neuron"],
    V: Float[Tensor, "instance prime neuron"],
    W: Float[Tensor, "instance prime neuron"],
) -> Spectrum:
    """Reads all neurons. Three vectors agree on the frequency only if the same one dominates each: hence the smallest
    share."""
    waves = torch.fft.rfft(torch.stack([U, V, W]).double(), dim=2)[:, :, 1:]
    power = waves.abs().square()
    shares = power / power.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    frequency = shares.sum(0).argmax(1)
    index = frequency[None, :, None].expand(3, -1, -1, -1)
    purity = shares.gather(2, index)[:, :, 0].amin(0)
    return Spectrum(frequency + 1, purity, waves.gather(2, index)[:, :, 0].angle())


def phase_error(phases: Float[Tensor, "vector instance neuron"]) -> Float[Tensor, "instance neuron"]:
    """|w - (u + v)| in radians, wrapped to [0, pi]: 0 in the closed form, evenly spread without the relation."""
    gap = phases[2] - phases[0] - phases[1]
    return (torch.remainder(gap + math.pi, 2 * math.pi) - math.pi).abs()


def live_neurons(
    U: Float[Tensor, "instance prime neuron"],
    V: Float[Tensor, "instance prime neuron"],
    W: Float[Tensor, "instance prime neuron"],
    share: float,
) -> Bool[Tensor, "instance neuron"]:
    """Neurons whose |U_k| |V_k| |W_k| is at least `share` of their network's largest. Weight decay lets others fade."""
    size = U.norm(dim=1) * V.norm(dim=1) * W.norm(dim=1)
    kept: Tensor = size >= share * size.amax(1, keepdim=True)
    return kept
