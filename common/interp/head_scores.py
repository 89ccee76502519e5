"""What an attention head does, as numbers: where it looks (patterns), what it writes, and whom it reads (weights).

Prefix matching, copying and previous-token scores are those of Olsson et al. 2022, "In-context Learning and Induction
Heads". Eigenvalue scores and composition are those of Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits". Row vectors, as in TransformerLens: a head reads x W_V, writes x W_V W_O, and compares (x_t W_Q) with (x_s
W_K).

A head that attends a fixed distance back is not an induction head, but on repeats with one fixed period it looks like
one. Measure on repeats at random distances, and see `positional_share`: the part of a score that positions alone
explain.
"""

from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

Patterns = Float[Tensor, "*lead batch head query key"]
Scores = Float[Tensor, "*lead head"]


def successors(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Key s comes right after an earlier copy of the token at query t: tokens[s - 1] = tokens[t], s - 1 < t."""
    return _shift(duplicates(tokens))


def duplicates(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Key s holds an earlier copy of the token at query t."""
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def prefix_matching(pattern: Patterns, tokens: Int[Tensor, "batch pos"]) -> Scores:
    """Attention to the positions after all earlier copies of the present token, summed over copies.

    Mean over batch and the queries that have an earlier copy; in [0, 1]. ValueError if no token repeats.
    """
    return attention_to(pattern, successors(tokens))


def duplicate_token(pattern: Patterns, tokens: Int[Tensor, "batch pos"]) -> Scores:
    """Attention to all earlier copies of the present token. ValueError if no token repeats."""
    return attention_to(pattern, duplicates(tokens))


def previous_token(pattern: Patterns) -> Scores:
    """Mean attention from t to t - 1 over t >= 1."""
    return pattern.diagonal(-1, -2, -1).mean((-1, -3))


def attention_to(pattern: Patterns, mask: Bool[Tensor, "batch query key"]) -> Scores:
    """Attention summed over the marked keys; mean over batch and the queries that have a marked key."""
    queries = mask.any(-1)
    if not bool(queries.any()):
        raise ValueError("no query has a marked key: the sequences hold no repeated token")
    summed = einsum(pattern, mask.to(pattern.dtype), "... batch head query key, batch query key -> ... head")
    return summed / queries.sum()


def positional_share(pattern: Patterns, tokens: Int[Tensor, "batch pos"]) -> Scores:
    """The prefix-matching score of the batch-mean pattern, which knows positions but no tokens.

    An induction head scores far above its positional share; a head that attends a fixed distance back does not.
    """
    return prefix_matching(pattern.mean(-4, keepdim=True).expand_as(pattern), tokens)


def copying(contribution: Float[Tensor, "*lead source target"]) -> Float[Tensor, "*lead"]:
    """How much a head raises the token it attends to, among the tokens of a sample; in [-1, 1].

    `contribution[a, b]` is what attending to token a adds to the logit of token b. Each row is centred and rectified.
    The share of the diagonal is averaged over rows and rescaled, so that 1 is pure copying and -1 raises others only.
    """
    raised = (contribution - contribution.mean(-1, keepdim=True)).clamp(min=0)
    share = raised.diagonal(dim1=-2, dim2=-1) / raised.sum(-1).clamp(min=torch.finfo(raised.dtype).tiny)
    return 2 * share.mean(-1) - 1


def copying_first(contribution: Float[Tensor, "*lead source target"]) -> Float[Tensor, "*lead"]:
    """Share of source tokens whose own logit is raised more than any other in the sample; chance is 1 / sample size."""
    own = torch.arange(contribution.shape[-1], device=contribution.device)
    return (contribution.argmax(-1) == own).to(contribution.dtype).mean(-1)


def eigenvalue_score(
    left: Float[Tensor, "*lead long short"], right: Float[Tensor, "*lead short long"]
) -> Float[Tensor, "*lead"]:
    """sum(eigenvalues) / sum|eigenvalues| of `left @ right`; 1 maps every direction to itself, -1 to its opposite.

    The non-zero eigenvalues of AB are those of BA, so the small product is decomposed (float64).
    """
    values = torch.linalg.eigvals(right.double() @ left.double())
    score: Tensor = values.sum(-1).real / values.abs().sum(-1)
    return score


class HeadWeights(NamedTuple):
    """Matrices of some heads; the leading axes of the two arguments of `composition` broadcast."""

    W_Q: Float[Tensor, "*lead d_model d_head"]
    W_K: Float[Tensor, "*lead d_model d_head"]
    W_V: Float[Tensor, "*lead d_model d_head"]
    W_O: Float[Tensor, "*lead d_head d_model"]


def composition(kind: str, early: HeadWeights, late: HeadWeights) -> Float[Tensor, "*lead"]:
    """How much the query, key or value of a later head reads what an earlier head writes (Elhage et al. 2021).

    ||A B||_F / (||A||_F ||B||_F) with B the earlier head's W_V W_O and A the later head's map from the side in
    question. Random matrices give about 1 / sqrt(d_model). Norms are computed on d_head x d_head products (float64).
    """
    if kind not in ("Q", "K", "V"):
        raise ValueError(f"composition is Q, K or V, not {kind}")
    reads, rest = {
        "Q": (late.W_Q, late.W_K.mT),
        "K": (late.W_K, late.W_Q.mT),
        "V": (late.W_V, late.W_O),
    }[kind]
    W_V, W_O, reads, rest = (W.double() for W in (early.W_V, early.W_O, reads, rest))
    both = _norm(W_V, (W_O @ reads) @ rest)
    return both / (_norm(W_V, W_O) * _norm(reads, rest))


def random_heads(d_model: int, d_head: int, draws: int, seed: int) -> HeadWeights:
    """Heads with independent N(0, 1) entries: the baseline of `composition`."""
    generator = torch.Generator().manual_seed(seed)
    tall = [torch.randn(draws, d_model, d_head, generator=generator, dtype=torch.float64) for _ in range(4)]
    return HeadWeights(tall[0], tall[1], tall[2], tall[3].mT)


def _norm(
    left: Float[Tensor, "*#lead long short"], right: Float[Tensor, "*#lead short other"]
) -> Float[Tensor, "*lead"]:
    """Frobenius norm of `left @ right` without forming it: tr((L^T L)(R R^T))^(1/2)."""
    return ((left.mT @ left) * (right @ right.mT)).sum((-1, -2)).clamp(min=0).sqrt()


def _shift(mask: Bool[Tensor, "batch query key"]) -> Bool[Tensor, "batch query key"]:
    return torch.cat([torch.zeros_like(mask[..., :1]), mask[..., :-1]], dim=-1)
