"""The one-layer transformer of Nanda et al. 2023 (*Progress measures for grokking*, section 3), many networks at once.

Input `a b =`, read at `=`: no LayerNorm, no biases, learned positions, untied unembedding, ReLU MLP. Only the last
position is read and there is one layer, so the query is the same for every pair, and keys and values depend on one
token and its place: they are computed once per number instead of once per pair (a test compares with the literal
network). Cross-entropy in float64, since losses fall to 1e-7.

Deviations: no biases, as in TransformerLens' demonstration of the same result; the answer `=` has no logit at all.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding

Weights = dict[str, Tensor]
PLACES = 3  # a, b, =


def initial_transformer(prime: int, d_model: int, n_heads: int, seed: int) -> Weights:
    """Weights of one instance by TransformerLens' names. Gaussian: variance 1 / d_model, 1 / prime for W_U."""
    draw = torch.Generator().manual_seed(40_000 + seed)
    d, e = d_model, d_model // n_heads
    sizes = {
        "W_E": (prime + 1, d), "W_pos": (PLACES, d), "W_Q": (n_heads, d, e), "W_K": (n_heads, d, e),
        "W_V": (n_heads, d, e), "W_O": (n_heads, e, d), "W_in": (d, 4 * d), "W_out": (4 * d, d), "W_U": (d, prime),
    }  # fmt: skip
    return {
        name: (prime if name == "W_U" else d) ** -0.5 * torch.randn(1, *size, generator=draw)
        for name, size in sizes.items()
    }


def neurons(weights: Weights, pairs: Int[Tensor, "instance pair 2"]) -> tuple[Tensor, Tensor]:
    """At `=`: MLP activations [instance pair d_mlp] and the residual stream before the MLP [instance pair d_model]."""
    numbers, stop = weights["W_E"][:, :-1], weights["W_E"][:, -1] + weights["W_pos"][:, 2]
    placed = torch.stack([numbers + weights["W_pos"][:, place, None] for place in (0, 1)], 1)
    query = einsum(stop, weights["W_Q"], "i d, i h d e -> i h e") * weights["W_Q"].shape[-1] ** -0.5
    addressed = einsum(query, weights["W_K"], "i h e, i h d e -> i h d")
    own = einsum(stop, addressed, "i d, i h d -> i h")
    scores = einsum(placed, addressed, "i place n d, i h d -> i place n h")
    values = einsum(placed, weights["W_V"], "i place n d, i h d e -> i place n h e")
    at = [_taken(scores[:, place], pairs[..., place]) for place in (0, 1)]
    pattern = torch.stack([*at, own[:, None].expand_as(at[0])], -1).softmax(-1)
    z = pattern[..., 2, None] * einsum(stop, weights["W_V"], "i d, i h d e -> i h e")[:, None]
    for place in (0, 1):
        z = z + pattern[..., place, None] * _taken(values[:, place], pairs[..., place])
    W_O = rearrange(weights["W_O"], "i h e d -> i (h e) d")
    residual = stop[:, None] + rearrange(z, "i pair h e -> i pair (h e)") @ W_O
    return torch.relu(residual @ weights["W_in"]), residual


def logits(weights: Weights, pairs: Int[Tensor, "instance pair 2"]) -> Float[Tensor, "instance pair answer"]:
    """The logits of the p answers at `=`."""
    hidden, residual = neurons(weights, pairs)
    return (residual + hidden @ weights["W_out"]) @ weights["W_U"]


def losses(
    found: Float[Tensor, "instance pair answer"], answers: Int[Tensor, "instance pair"]
) -> Float[Tensor, "instance pair"]:
    """Cross-entropy of every pair in nats, in float64."""
    return -found.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0]


def all_pairs(prime: int) -> Int[Tensor, "pair 2"]:
    """Every (a, b), in the order of `model.task`."""
    number = torch.arange(prime)
    return torch.cartesian_prod(number, number)


def split(
    found: Float[Tensor, "instance pair"], trained: Bool[Tensor, "instance pair"]
) -> tuple[Float[Tensor, " instance"], Float[Tensor, " instance"]]:
    """Means over the pairs trained on and over the others."""
    held = ~trained
    return (found * trained).sum(-1) / trained.sum(-1), (found * held).sum(-1) / held.sum(-1)


def planted(prime: int, frequencies: list[int]) -> Float[Tensor, "pair answer"]:
    """Logits of the algorithm itself, sum_k cos(w_k (a + b - c)): ground truth for the measures."""
    pairs, answer = all_pairs(prime), torch.arange(prime)
    gap = (pairs.sum(-1)[:, None] - answer[None]).double()
    return torch.stack([torch.cos(2 * math.pi * k / prime * gap) for k in frequencies]).sum(0)


def _taken(table: Float[Tensor, "i n ..."], index: Int[Tensor, "i pair"]) -> Float[Tensor, "i pair ..."]:
    """Rows of every instance's table (`embedding` has a deterministic gradient)."""
    shifted = index + table.shape[1] * torch.arange(len(table), device=index.device)[:, None]
    rows = embedding(shifted, table.flatten(0, 1).flatten(1))
    return rows.reshape(*index.shape, *table.shape[2:])
