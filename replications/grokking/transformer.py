"""The one-layer transformer of Nanda et al. 2023 (*Progress measures for grokking*, section 3), made cheap.

Input `a b =`, read at `=`: no LayerNorm, no biases, learned positions, untied unembedding, ReLU MLP of width 4 d_model.
With one layer, only the last position matters. Its query is the same for every pair, and keys and values are functions
of one number and its place: scores and values are computed for 2 p rows and gathered for the pairs. Linear maps that
follow each other (W_O W_in, W_O W_U, W_out W_U) are multiplied first. Tests compare with the full network of
`common.toys.transformer` and with TransformerLens.

Deviations: no biases, as in TransformerLens' demonstration of the same result; the answer `=` has no logit at all.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

Weights = dict[str, Tensor]
PLACES = 3  # a, b, =


class Forward(NamedTuple):
    """What the last position holds, for every pair. `z` and `post` are TransformerLens' hook_z and hook_post."""

    z: Float[Tensor, "pair head_d_head"]
    post: Float[Tensor, "pair d_mlp"]
    logits: Float[Tensor, "pair answer"]


def initial(prime: int, d_model: int, n_heads: int, seed: int) -> Weights:
    """Weights of one network by TransformerLens' names. Gaussian: variance 1 / d_model, 1 / prime for W_U."""
    draw = torch.Generator().manual_seed(40_000 + seed)
    d, e = d_model, d_model // n_heads
    sizes = {
        "W_E": (prime + 1, d), "W_pos": (PLACES, d), "W_Q": (n_heads, d, e), "W_K": (n_heads, d, e),
        "W_V": (n_heads, d, e), "W_O": (n_heads, e, d), "W_in": (d, 4 * d), "W_out": (4 * d, d), "W_U": (d, prime),
    }  # fmt: skip
    return {
        name: (prime if name == "W_U" else d) ** -0.5 * torch.randn(*size, generator=draw)
        for name, size in sizes.items()
    }


def forward(weights: Weights, pairs: Int[Tensor, "pair 2"]) -> Forward:
    """One network on the given pairs."""
    z, stop = attention(weights, pairs), _stop(weights)
    W_O = rearrange(weights["W_O"], "head d_head d_model -> (head d_head) d_model")
    post = torch.relu(torch.addmm(stop @ weights["W_in"], z, W_O @ weights["W_in"]))
    direct = torch.addmm(stop @ weights["W_U"], z, W_O @ weights["W_U"])
    return Forward(z, post, torch.addmm(direct, post, weights["W_out"] @ weights["W_U"]))


def attention(weights: Weights, pairs: Int[Tensor, "pair 2"]) -> Float[Tensor, "pair head_d_head"]:
    """hook_z at `=`, heads side by side: softmax over the three positions as a quotient of sums.

    Above and below the line stands a function of a plus one of b; what position `=` adds goes with b. Scores of
    a head may differ by up to 80 before float32 underflows; training stops at a value that is not finite.
    """
    stop, heads = _stop(weights), len(weights["W_Q"])
    places = [weights["W_E"][:-1] + weights["W_pos"][place] for place in (0, 1)] + [stop[None]]
    query = einsum(stop, weights["W_Q"], "d, head d e -> head e") * weights["W_Q"].shape[-1] ** -0.5
    key = einsum(query, weights["W_K"], "head e, head d e -> d head")
    scores = [place @ key for place in places]
    largest = torch.cat(scores).amax(0).detach()  # the quotient does not change, and nothing overflows
    W_V = rearrange(weights["W_V"], "head d e -> d (head e)")
    sums = []
    for place, score in zip(places, scores, strict=True):
        below = (score - largest).exp()
        above = rearrange(place @ W_V, "row (head e) -> row head e", head=heads) * below[..., None]
        sums.append(torch.cat([above.flatten(1), below], dim=1))
    total = embedding(pairs[:, 0], sums[0]) + embedding(pairs[:, 1], sums[1] + sums[2])
    above, below = total[:, :-heads], total[:, -heads:]
    z = rearrange(above, "pair (head e) -> pair head e", head=heads) / below[..., None]
    return z.flatten(1)


def residual(weights: Weights, found: Forward) -> Float[Tensor, "pair d_model"]:
    """hook_resid_post at `=`."""
    W_O = rearrange(weights["W_O"], "head d_head d_model -> (head d_head) d_model")
    return _stop(weights) + found.z @ W_O + found.post @ weights["W_out"]


def losses(logits: Float[Tensor, "*n pair answer"], answers: Int[Tensor, "*n pair"]) -> Float[Tensor, "*n pair"]:
    """Cross-entropy of every pair in nats, in float64: losses fall to 1e-7."""
    return -logits.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0]


def member(weights: Weights, *index: int) -> Weights:
    """One network of stacked ones."""
    return {name: value[index] for name, value in weights.items()}


def _stop(weights: Weights) -> Float[Tensor, " d_model"]:
    """The residual stream at `=` before attention."""
    return weights["W_E"][-1] + weights["W_pos"][2]
