"""What the transformer has learned, read in the Fourier basis (Nanda et al. 2023, sections 4 and 5).

The algorithm: logits = sum_k alpha_k cos(w_k (a + b - c)) with w_k = 2 pi k / p, for a handful of key frequencies k.
Over the grid of all pairs, cos(w_k (a + b)) and sin(w_k (a + b)) are two unit directions per frequency. Restricted loss
keeps of the logits their mean over the grid and these directions, for all key frequencies; excluded loss takes the
directions away. (The paper has variants with more directions per frequency; this is the one with two.)
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from replications.grokking.transformer import all_pairs

TINY = torch.finfo(torch.float64).tiny


def sum_waves(
    prime: int, frequencies: list[int], device: torch.device | None = None
) -> Float[Tensor, "pair direction"]:
    """Unit vectors over the grid: cos(w_k (a + b)) and sin(w_k (a + b)) of every frequency."""
    if not frequencies:
        return torch.zeros(prime**2, 0, dtype=torch.float64, device=device)
    total = all_pairs(prime).sum(-1).double().to(device)
    angles = [2 * math.pi * k / prime * total for k in frequencies]
    return torch.stack([wave(angle) for angle in angles for wave in (torch.cos, torch.sin)], 1) * 2**0.5 / prime


def restricted(found: Float[Tensor, "pair answer"], frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    """The logits with nothing but their mean over the grid and the directions of the frequencies."""
    return found.double().mean(0) + _along(found, frequencies)


def excluded(found: Float[Tensor, "pair answer"], frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    """The logits without the directions of the frequencies."""
    return found.double() - _along(found, frequencies)


def _along(found: Float[Tensor, "pair answer"], frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    waves = sum_waves(round(len(found) ** 0.5), frequencies, found.device)
    return waves @ (waves.T @ found.double())


def cosine_shares(found: Float[Tensor, "pair answer"]) -> Float[Tensor, " frequency"]:
    """Share of cos(w_k (a + b - c)) in the variance of the logits over pairs and answers, for k = 1 ... (p - 1) / 2.

    What is equal for all answers of a pair is taken out first (it changes no probability), and so is the mean of every
    answer. The projection is read off the sums of logits with equal a + b - c.
    """
    prime = round(len(found) ** 0.5)
    centred = found.double() - found.double().mean(-1, keepdim=True)
    centred = centred - centred.mean(0)
    number = torch.arange(prime, device=found.device)
    total = (number[:, None] + number[None]).flatten() % prime
    by_sum = torch.zeros(prime, prime, dtype=torch.float64, device=found.device).index_add_(0, total, centred)
    gap = (number[:, None] - number[None]) % prime  # s - c
    by_gap = torch.zeros(prime, dtype=torch.float64, device=found.device)
    by_gap = by_gap.index_add_(0, gap.flatten(), by_sum.flatten())
    inner = torch.fft.rfft(by_gap).real[1:]  # sums of logits times cos(w_k (a + b - c))
    shares: Tensor = inner.square() / (prime**3 / 2) / centred.square().sum().clamp(min=TINY)
    return shares


def embedding_shares(W_E: Float[Tensor, "number d_model"]) -> Float[Tensor, " frequency"]:
    """Share of each frequency in the power of the embedding of the numbers, its mean left out."""
    power = torch.fft.rfft(W_E.double(), dim=0)[1:].abs().square().sum(1)
    shares: Tensor = power / power.sum()
    return shares


def neuron_shares(hidden: Float[Tensor, "pair neuron"]) -> Float[Tensor, " neuron"]:
    """Largest share of a neuron's variance over the grid that waves of one frequency explain.

    The waves of frequency k are the products of {1, cos, sin} of w_k a with {1, cos, sin} of w_k b, but the constant.
    In the complex Fourier transform these are the places (i, j) with i and j in {-k, 0, k}.
    """
    prime = round(len(hidden) ** 0.5)
    grid = rearrange(hidden.double(), "(a b) neuron -> neuron a b", a=prime)
    power = torch.fft.fft2(grid).abs().square()
    power[:, 0, 0] = 0
    whole = power.sum((1, 2)).clamp(min=TINY)
    shares = []
    for k in range(1, (prime - 1) // 2 + 1):
        places = torch.tensor([0, k, prime - k], device=hidden.device)
        shares.append(power[:, places][:, :, places].sum((1, 2)) / whole)
    return torch.stack(shares).amax(0)


def key_frequencies(shares: Float[Tensor, " frequency"], least: float) -> list[int]:
    """Frequencies with at least the share `least` of what all shares sum to; the strongest one in any case."""
    relative = shares / shares.sum().clamp(min=TINY)
    found: list[int] = (torch.nonzero(relative >= least)[:, 0] + 1).tolist()
    return found or [int(shares.argmax()) + 1]


def strongest(shares: Float[Tensor, " frequency"], count: int) -> list[int]:
    """The `count` strongest frequencies, in rising order."""
    return sorted((shares.topk(min(count, len(shares))).indices + 1).tolist())


def others(prime: int, frequencies: list[int], draws: int) -> list[list[int]]:
    """Draws of as many frequencies that are not among the given ones (fewer if there are not as many)."""
    rest = torch.tensor([k for k in range(1, (prime - 1) // 2 + 1) if k not in frequencies])
    draw = torch.Generator().manual_seed(0)
    chosen: list[Int[Tensor, " k"]] = [
        rest[torch.randperm(len(rest), generator=draw)[: len(frequencies)]] for _ in range(draws)
    ]
    return [one.tolist() for one in chosen]


def overlap(first: list[int], second: list[int]) -> float:
    """Size of the intersection over size of the union of two sets of frequencies."""
    return len(set(first) & set(second)) / len(set(first) | set(second))
