"""In-context Markov chains: every sequence has its own chain, and the best prediction of its next symbol is known.

Edelman et al. 2024, "The Evolution of Statistical Induction Heads". A chain has `n_symbols` states; the rows of its
matrix are drawn from Dirichlet(1). Given the chain's past, Bayes' rule predicts (c_ij + 1) / (c_i + k), with c_ij how
often j followed the present state i: the *bigram* predictor. The *unigram* predictor, which knows how often each
symbol occurred but not in which order, is (n_j + 1) / (t + k). In *doubly stochastic* chains (mixtures of permutation
matrices) all symbols are equally frequent in the long run, so that counting symbols is of no use.
"""

from itertools import permutations
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from replications.induction_heads.data import STEP_STRIDE

Kind = Literal["dirichlet", "doubly_stochastic"]


def random_chains(kind: Kind, n: int, n_symbols: int, generator: torch.Generator) -> Float[Tensor, "batch row column"]:
    """Transition matrices; rows sum to one, and columns too if doubly stochastic."""
    if kind == "dirichlet":
        return _dirichlet((n, n_symbols, n_symbols), generator)
    each = torch.eye(n_symbols)[torch.tensor(list(permutations(range(n_symbols))))]
    return torch.einsum("bp,pij->bij", _dirichlet((n, len(each)), generator), each)


def walk(
    chains: Float[Tensor, "batch row column"], length: int, generator: torch.Generator
) -> Int[Tensor, "batch pos"]:
    """One path of each chain, from a uniform first symbol."""
    n, n_symbols, _ = chains.shape
    steps = torch.rand(length, n, generator=generator)
    ends = chains.cumsum(-1)
    states = [(steps[0] * n_symbols).long()]
    for step in steps[1:]:
        row = ends[torch.arange(n), states[-1]]
        states.append((step[:, None] > row[:, :-1]).sum(-1))
    return torch.stack(states, 1)


def batch_of_chains(
    kind: Kind, n: int, n_symbols: int, length: int, seed: int, step: int
) -> tuple[Float[Tensor, "batch row column"], Int[Tensor, "batch pos"]]:
    """Chains and their paths, a pure function of seed and step. Training uses steps from 0 on, held-out sets -1."""
    generator = torch.Generator().manual_seed((seed + 1) * STEP_STRIDE + step)
    chains = random_chains(kind, n, n_symbols, generator)
    return chains, walk(chains, length, generator)


def bigram(tokens: Int[Tensor, "batch pos"], n_symbols: int) -> Float[Tensor, "batch pos symbol"]:
    """Bayes' prediction of the next symbol at every position."""
    here = one_hot(tokens, n_symbols).float()
    pairs = torch.einsum("bti,btj->btij", here[:, :-1], here[:, 1:]).cumsum(1)
    counts = torch.cat([torch.zeros_like(pairs[:, :1]), pairs], 1)
    mine = torch.einsum("bti,btij->btj", here, counts)
    return (mine + 1) / (mine.sum(-1, keepdim=True) + n_symbols)


def unigram(tokens: Int[Tensor, "batch pos"], n_symbols: int) -> Float[Tensor, "batch pos symbol"]:
    """The best prediction from symbol counts alone, for independent draws from one Dirichlet(1) distribution."""
    counts = one_hot(tokens, n_symbols).float().cumsum(1)
    return (counts + 1) / (counts.sum(-1, keepdim=True) + n_symbols)


def divergence(
    truth: Float[Tensor, "*lead symbol"], predicted: Float[Tensor, "*lead symbol"]
) -> Float[Tensor, "*lead"]:
    """Kullback-Leibler divergence of a prediction from the truth, in nats."""
    found: Tensor = torch.special.xlogy(truth, truth).sum(-1) - torch.special.xlogy(truth, predicted).sum(-1)
    return found


def _dirichlet(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    drawn = -torch.log1p(-torch.rand(size, generator=generator))
    return drawn / drawn.sum(-1, keepdim=True)
