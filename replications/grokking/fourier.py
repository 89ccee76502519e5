"""What a network has learned, read in the Fourier basis over the p numbers (Nanda et al. 2023, sections 4 and 5).

The algorithm: logits = sum_k alpha_k cos(w_k (a + b - c)) with w_k = 2 pi k / p, for a handful of key frequencies k.
Over the grid of all pairs, cos(w_k (a + b)) and sin(w_k (a + b)) are two unit directions per frequency. Restricted loss
keeps of the logits their mean over the grid and these directions, for all key frequencies; excluded loss takes the
directions away. (The paper has variants with more directions per frequency; this is the one with two.)

Phases are those of Gromov's closed form (2023, section 3). A neuron whose input waves have the phases u and v must
write a wave of phase u + v. The constant term is left out everywhere.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from replications.grokking.task import all_pairs

TINY = torch.finfo(torch.float64).tiny


def sum_waves(prime: int, frequencies: list[int]) -> Float[Tensor, "pair direction"]:
    """Unit vectors over the grid: cos(w_k (a + b)) and sin(w_k (a + b)) of every frequency."""
    total = all_pairs(prime).sum(-1).double()
    angles = [2 * math.pi * k / prime * total for k in frequencies]
    waves = [wave(angle) for angle in angles for wave in (torch.cos, torch.sin)]
    return torch.stack(waves, 1) * 2**0.5 / prime if waves else torch.zeros(prime**2, 0, dtype=torch.float64)


def restricted(logits: Float[Tensor, "pair answer"], frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    """The logits with nothing but their mean over the grid and the directions of the frequencies."""
    return logits.double().mean(0) + _along(logits, frequencies)


def excluded(logits: Float[Tensor, "pair answer"], frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    """The logits without the directions of the frequencies."""
    return logits.double() - _along(logits, frequencies)


def excluded_elsewhere(
    logits: Float[Tensor, "pair answer"], frequencies: list[int], draws: int
) -> list[Float[Tensor, "pair answer"]]:
    """The logits without the component that `excluded` takes from another pair: changes of equal norm, in draws."""
    taken = _along(logits, frequencies)
    draw = torch.Generator().manual_seed(0)
    return [logits.double() - taken[torch.randperm(len(taken), generator=draw)] for _ in range(draws)]


def _along(logits: Float[Tensor, "pair answer"], frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    waves = sum_waves(round(len(logits) ** 0.5), frequencies)
    return waves @ (waves.T @ logits.double())


def cosine_shares(logits: Float[Tensor, "pair answer"]) -> Float[Tensor, " frequency"]:
    """Share of cos(w_k (a + b - c)) in the variance of the logits over pairs and answers, for k = 1 ... (p - 1) / 2.

    What is equal for all answers of a pair is taken out first (it changes no probability), and so is the mean of every
    answer. The projection is read off the sums of logits with equal a + b - c.
    """
    prime = logits.shape[1]
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    centred = centred - centred.mean(0)
    by_sum = torch.zeros(prime, prime, dtype=torch.float64)
    by_sum = by_sum.index_add_(0, all_pairs(prime).sum(-1) % prime, centred)
    number = torch.arange(prime)
    gap = (number[:, None] - number[None]) % prime  # s - c
    by_gap = torch.zeros(prime, dtype=torch.float64).index_add_(0, gap.flatten(), by_sum.flatten())
    inner = torch.fft.rfft(by_gap).real[1:]  # sums of logits times cos(w_k (a + b - c))
    shares: Tensor = inner.square() / (prime**3 / 2) / centred.square().sum().clamp(min=TINY)
    return shares


def wave_shares(table: Float[Tensor, "number column"]) -> Float[Tensor, " frequency"]:
    """Share of each frequency in the power of all columns together, as of the embedding of the numbers."""
    power = torch.fft.rfft(table.double(), dim=0)[1:].abs().square().sum(1)
    shares: Tensor = power / power.sum().clamp(min=TINY)
    return shares


def fourier_norms(W_E: Float[Tensor, "number d_model"]) -> Float[Tensor, "frequency cos_sin"]:
    """Norms of the embedding's components along the unit waves cos(w_k n) and sin(w_k n) (Nanda et al. Figure 3)."""
    waves = torch.fft.rfft(W_E.double(), dim=0)[1:] * (2 / len(W_E)) ** 0.5
    return torch.stack([waves.real.norm(dim=1), waves.imag.norm(dim=1)], 1)


def grid_norms(table: Float[Tensor, "pair column"]) -> Float[Tensor, "wave_a wave_b"]:
    """Norms of the columns' components along products of the unit waves 1, cos 1, sin 1, cos 2, ... of a and of b."""
    prime = round(len(table) ** 0.5)
    number = torch.arange(prime, dtype=torch.float64)
    angles = [2 * math.pi * k / prime * number for k in range(1, (prime - 1) // 2 + 1)]
    rows = [torch.full_like(number, 0.5**0.5), *(wave(angle) for angle in angles for wave in (torch.cos, torch.sin))]
    basis = torch.stack(rows) * (2 / prime) ** 0.5
    grid = rearrange(table.double(), "(a b) column -> column a b", a=prime)
    norms: Tensor = (basis @ grid @ basis.T).norm(dim=0)
    return norms


class Neurons(NamedTuple):
    """Of every neuron: the frequency that explains most of its variance over the grid, and that share. Also how far the
    phase of its output is from the sum of its input phases, |w - u - v| in radians."""

    frequency: Int[Tensor, " neuron"]
    share: Float[Tensor, " neuron"]
    phase_error: Float[Tensor, " neuron"]
    phases: Float[Tensor, "uvw neuron"]


def read_neurons(post: Float[Tensor, "pair neuron"], writes: Float[Tensor, "neuron answer"]) -> Neurons:
    """Reads all neurons from their activations and from what they add to the logits (W_out W_U).

    The waves of frequency k are the products of {1, cos, sin} of w_k a with {1, cos, sin} of w_k b, but the constant.
    In the complex Fourier transform they are the places (i, j) with i and j in {-k, 0, k}. The input phases are those
    at (k, 0) and (0, k).
    """
    prime = writes.shape[1]
    waves = torch.fft.fft2(rearrange(post.double(), "(a b) neuron -> neuron a b", a=prime))
    power = waves.abs().square()
    power[:, 0, 0] = 0
    whole = power.sum((1, 2)).clamp(min=TINY)
    shares = []
    for k in range(1, (prime - 1) // 2 + 1):
        places = torch.tensor([0, k, prime - k])
        shares.append(power[:, places][:, :, places].sum((1, 2)) / whole)
    share, best = torch.stack(shares).max(0)
    frequency, neuron = best + 1, torch.arange(len(waves))
    out = torch.fft.fft(writes.double(), dim=1)[neuron, frequency]
    phases = torch.stack([waves[neuron, frequency, 0], waves[neuron, 0, frequency], out]).angle()
    return Neurons(frequency, share, phase_error(phases), phases)


def phase_error(phases: Float[Tensor, "uvw neuron"]) -> Float[Tensor, " neuron"]:
    """|w - (u + v)| in radians, wrapped to [0, pi]: 0 in the closed form, evenly spread without the relation."""
    gap = phases[2] - phases[0] - phases[1]
    return (torch.remainder(gap + math.pi, 2 * math.pi) - math.pi).abs()


def permuted(phases: Float[Tensor, "uvw neuron"], frequency: Int[Tensor, " neuron"]) -> Float[Tensor, "uvw neuron"]:
    """Output phases handed to other neurons of the same frequency."""
    draw, order = torch.Generator().manual_seed(0), torch.arange(len(frequency))
    for k in set(frequency.tolist()):
        own = torch.nonzero(frequency == k)[:, 0]
        order[own] = own[torch.randperm(len(own), generator=draw)]
    return torch.stack([phases[0], phases[1], phases[2][order]])


def circle(table: Float[Tensor, "number column"], frequency: int) -> Float[Tensor, "axis column"]:
    """Orthogonal axes, longest first, of the ellipse that the wave of one frequency draws; lengths are half-axes."""
    wave = torch.fft.rfft(table.double(), dim=0)[frequency] * 2 / len(table)
    _, lengths, axes = torch.linalg.svd(torch.stack([wave.real, wave.imag]), full_matrices=False)
    scaled: Tensor = lengths[:, None] * axes
    return scaled


def roundness(table: Float[Tensor, "number column"], frequencies: list[int]) -> float:
    """Short over long axis of the frequencies' ellipses, weighted by their power: 1 for circles, 0 for lines."""
    lengths = torch.stack([circle(table, k).norm(dim=1) for k in frequencies])
    power = lengths.square().sum(1)
    return float((power * lengths[:, 1] / lengths[:, 0]).sum() / power.sum())


def gini(values: Float[Tensor, " n"]) -> float:
    """Gini coefficient: 0 if all values are equal, near 1 if one holds all."""
    rank = torch.arange(1, len(values) + 1, dtype=torch.float64)
    inner = (2 * rank - len(values) - 1) @ values.double().sort().values
    return float(inner / (len(values) * values.double().sum().clamp(min=TINY)))


def key_frequencies(shares: Float[Tensor, " frequency"], least: float) -> list[int]:
    """Frequencies with at least the share `least` of what all shares sum to; the strongest one in any case."""
    relative = shares / shares.sum().clamp(min=TINY)
    chosen: list[int] = (torch.nonzero(relative >= least)[:, 0] + 1).tolist()
    return chosen or [int(shares.argmax()) + 1]


def strongest(shares: Float[Tensor, " frequency"], count: int) -> list[int]:
    """The `count` strongest frequencies, in rising order."""
    return sorted((shares.topk(min(count, len(shares))).indices + 1).tolist())


def others(prime: int, frequencies: list[int], draws: int) -> list[list[int]]:
    """Draws of as many frequencies that are not among the given ones (fewer if there are not as many)."""
    rest = torch.tensor([k for k in range(1, (prime - 1) // 2 + 1) if k not in frequencies])
    draw = torch.Generator().manual_seed(0)
    chosen = [rest[torch.randperm(len(rest), generator=draw)[: len(frequencies)]] for _ in range(draws)]
    return [one.tolist() for one in chosen]


def overlap(first: list[int], second: list[int]) -> float:
    """Size of the intersection over size of the union of two sets of frequencies."""
    return len(set(first) & set(second)) / len(set(first) | set(second))
