"""Modular addition and the quadratic network that groks it (Gromov 2023, *Grokking modular arithmetic*, eqs. 1-8).

The network has one hidden layer, quadratic activation and no bias: f(a, b) = W (U_a + V_b)^2, trained with squared
error on one-hot answers of a + b mod p. Every pair is computed in every step; a mask says which pairs are trained on,
so that conditions and seeds share one batch. Gromov's closed-form solution (his section 3) has neuron k carry one
frequency: U_ak = cos(2 pi f_k a / p + u_k), V_bk = cos(2 pi f_k b / p + v_k), W_ck = cos(2 pi f_k c / p + w_k) with
w_k = u_k + v_k; `closed_form` builds it, as ground truth for the measurements.

Deviations: Gaussian weights of variance 1 / 2p (input) and 1 / width (output); AdamW, as in the public code of
Doshi et al., instead of plain gradient descent.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

Weights = dict[str, Tensor]


class Task(NamedTuple):
    """All p^2 pairs of every instance: the answers, and which pairs are trained on."""

    answers: Int[Tensor, "instance pair"]
    trained: Bool[Tensor, "instance pair"]


def task(prime: int, fraction: float, seed: int, random_labels: bool) -> Task:
    """One instance. A seed's training sets are nested: a larger share adds pairs. Random answers are drawn evenly."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(prime**2, generator=draw)
    shuffle = torch.randint(prime, (prime**2,), generator=draw)
    number = torch.arange(prime)
    answers = rearrange((number[:, None] + number[None, :]) % prime, "a b -> (a b)")
    trained = torch.zeros(prime**2, dtype=torch.bool)
    trained[order[: round(fraction * prime**2)]] = True
    return Task((shuffle if random_labels else answers)[None], trained[None])


def initial(prime: int, width: int, seed: int) -> Weights:
    """Weights of one instance, [1 prime width] each; W is stored with its answers first."""
    draw = torch.Generator().manual_seed(20_000 + seed)
    scales = {"U": (2 * prime) ** -0.5, "V": (2 * prime) ** -0.5, "W": width**-0.5}
    return {name: scale * torch.randn(1, prime, width, generator=draw) for name, scale in scales.items()}


def outputs(weights: Weights) -> Float[Tensor, "instance pair answer"]:
    """f(a, b) for all pairs; network by network: the table of one fits into the cache, that of all does not."""
    networks = zip(weights["U"], weights["V"], weights["W"], strict=True)
    hidden = (rearrange(U, "a k -> a 1 k") + rearrange(V, "b k -> 1 b k") for U, V, _ in networks)
    squared = (rearrange(one.square(), "a b k -> (a b) k") for one in hidden)
    return torch.stack([one @ W.T for one, W in zip(squared, weights["W"], strict=True)])


def loss(weights: Weights, tasks: Task) -> Float[Tensor, " instance"]:
    """Mean squared error over the training pairs and the p outputs."""
    found = outputs(weights)
    wanted = torch.zeros_like(found).scatter_(2, tasks.answers[..., None], 1.0)
    error = (found - wanted).square().mean(-1)
    return (error * tasks.trained).sum(-1) / tasks.trained.sum(-1)


def accuracies(weights: Weights, tasks: Task) -> Weights:
    """Share of right answers on the pairs trained on and on the others, [instance] each."""
    right = outputs(weights).argmax(-1) == tasks.answers
    held = ~tasks.trained
    return {
        "train": (right & tasks.trained).sum(-1) / tasks.trained.sum(-1),
        "test": (right & held).sum(-1) / held.sum(-1),
    }


def closed_form(prime: int, width: int, seed: int) -> Weights:
    """Gromov's solution with random frequencies and phases; exact as the width grows."""
    draw = torch.Generator().manual_seed(seed)
    frequency = torch.randint(1, (prime - 1) // 2 + 1, (width,), generator=draw)
    u, v = 2 * math.pi * torch.rand(2, width, generator=draw)
    angle = 2 * math.pi / prime * torch.arange(prime)[:, None] * frequency[None]
    return {"U": torch.cos(angle + u)[None], "V": torch.cos(angle + v)[None], "W": torch.cos(angle + u + v)[None]}
