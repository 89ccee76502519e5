"""The one-layer transformer of Nanda et al. 2023 (*Progress measures for grokking*, section 3), made cheap.

Input `a b =`, read at `=`: no LayerNorm, no biases, learned positions, untied unembedding, ReLU MLP of width 4 d_model.
With one layer, only the last position matters. Its query is the same for every pair, and keys and values are functions
of one number and its place. So scores and values are computed for 2 p rows and gathered for the pairs. Linear maps that
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
    return forward_all({name: value[None] for name, value in weights.items()}, pairs[None])[0]


def forward_all(weights: Weights, pairs: Int[Tensor, "instance pair 2"]) -> list[Forward]:
    """Stacked networks, each on its own pairs. On a CPU the MLP runs one by one: one network fits into the cache. A GPU
    waits for each kernel to be started: there all networks run at once."""
    z, stop = attention(weights, pairs), _stop(weights)
    W_O = rearrange(weights["W_O"], "instance head d_head d_model -> instance (head d_head) d_model")
    maps = [W_O @ weights["W_in"], W_O @ weights["W_U"], weights["W_out"] @ weights["W_U"]]
    own = [(stop @ weights[name])[:, 0] for name in ("W_in", "W_U")]  # what `=` itself brings
    if z.is_cuda:
        post = torch.relu(torch.baddbmm(own[0][:, None], z, maps[0]))
        logits = torch.baddbmm(torch.baddbmm(own[1][:, None], z, maps[1]), post, maps[2])
        return [Forward(*each) for each in zip(z.unbind(), post.unbind(), logits.unbind(), strict=True)]
    found = []
    for z_i, W_in, W_direct, W_out, b_in, b_U in zip(*(part.unbind() for part in (z, *maps, *own)), strict=True):
        post = torch.relu(torch.addmm(b_in, z_i, W_in))
        found.append(Forward(z_i, post, torch.addmm(torch.addmm(b_U, z_i, W_direct), post, W_out)))
    return found


def attention(weights: Weights, pairs: Int[Tensor, "instance pair 2"]) -> Float[Tensor, "instance pair head_d_head"]:
    """hook_z at `=`, heads side by side: softmax over the three positions as a quotient of sums.

    Above and below the line stands a function of a plus one of b; what position `=` adds goes with b. Scores of
    a head may differ by up to 80 before float32 underflows; training stops at a value that is not finite.
    """
    number, stop = weights["W_E"][:, :-1], _stop(weights)
    prime, heads = number.shape[1], weights["W_Q"].shape[1]
    placed = torch.cat([number + weights["W_pos"][:, [0]], number + weights["W_pos"][:, [1]], stop], dim=1)
    query = einsum(stop, weights["W_Q"], "i one d, i head d e -> i head e") * weights["W_Q"].shape[-1] ** -0.5
    scores = placed @ einsum(query, weights["W_K"], "i head e, i head d e -> i d head")
    below = (scores - scores.amax(1, keepdim=True).detach()).exp()  # the quotient is the same, and nothing overflows
    values = placed @ rearrange(weights["W_V"], "i head d e -> i d (head e)")
    above = rearrange(values, "i row (head e) -> i row head e", head=heads) * below[..., None]
    sums = torch.cat([above.flatten(2), below], dim=2)
    total = _rows(sums[:, :prime], pairs[..., 0]) + _rows(sums[:, prime:-1] + sums[:, -1:], pairs[..., 1])
    above, below = total[..., :-heads], total[..., -heads:]
    z = rearrange(above, "i pair (head e) -> i pair head e", head=heads) / below[..., None]
    return z.flatten(2)


def _rows(
    table: Float[Tensor, "instance row column"], index: Int[Tensor, "instance pair"]
) -> Float[Tensor, "instance pair column"]:
    """Rows of every network's own table."""
    shift = table.shape[1] * torch.arange(len(table), device=index.device)[:, None]
    return embedding(index + shift, table.flatten(0, 1))


def residual(weights: Weights, found: Forward) -> Float[Tensor, "pair d_model"]:
    """hook_resid_post at `=` of one network."""
    W_O = rearrange(weights["W_O"], "head d_head d_model -> (head d_head) d_model")
    return weights["W_E"][-1] + weights["W_pos"][2] + found.z @ W_O + found.post @ weights["W_out"]


def losses(logits: Float[Tensor, "*n pair answer"], answers: Int[Tensor, "*n pair"]) -> Float[Tensor, "*n pair"]:
    """Cross-entropy of every pair in nats, in float64: losses fall to 1e-7."""
    return -logits.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0]


def member(weights: Weights, *index: int) -> Weights:
    """One network of stacked ones."""
    return {name: value[index] for name, value in weights.items()}


def _stop(weights: Weights) -> Float[Tensor, "instance 1 d_model"]:
    """The residual stream at `=` before attention."""
    return weights["W_E"][:, -1:] + weights["W_pos"][:, [2]]
