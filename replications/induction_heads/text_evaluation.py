"""What is measured of a model of natural text: losses by context, the in-context score, head scores.

In-context score (Olsson et al. 2022: loss at index 500 minus loss at index 50). Here it is the loss of the same targets
after a long context minus after a short one. Deviation: the paper compares different tokens of a document. A cut
context compares a token with itself, so a model that does not use far context scores 0 whatever the tokens are.
Stretches start at random places of documents for the same reason.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.head_scores import copying
from common.toys.settings import Architecture
from common.toys.transformer import Weights
from replications.induction_heads.data import HeldOut, one_shot
from replications.induction_heads.evaluation import PATH_TOKENS, losses_on, patterns, scores, written
from replications.induction_heads.settings import Contexts, Text, Tokens

COMMONEST, RAREST = 0.05, 0.20  # shares of the vocabulary that random repeats leave out, as the paper does
SAMPLE, SAMPLES = 25, 8  # tokens of the copying score, as in the paper, and samples
PIECE = 40  # stretches in one forward pass: the attention patterns of all of them would take gigabytes


class Stretches(NamedTuple):
    """Held-out text, and the same targets with most of their context cut off."""

    long: Int[Tensor, "batch pos"]
    short: Int[Tensor, "batch near"]
    contexts: Contexts


def stretches_of(tokens: Int[Tensor, "batch pos"], contexts: Contexts) -> Stretches:
    """The long stretches with their short versions: `early` tokens of context where the long ones have `late`."""
    return Stretches(tokens, tokens[:, contexts.late - contexts.early : contexts.late + contexts.width + 1], contexts)


def repeats_like(tokens: Tokens, known: int) -> Text:
    """One-shot repeats of `known` kinds of tokens as long as the stretches."""
    length = tokens.length
    return Text(
        length=length, d_vocab=known, shortest_block=max(2, length // 8), longest_block=length // 4, copies=2
    )  # fmt: skip


def usual_tokens(stream: Int[Tensor, " token"], d_vocab: int) -> Int[Tensor, " known"]:
    """Tokens of the vocabulary but the commonest and the rarest, the commonest first."""
    order = torch.bincount(stream, minlength=d_vocab).argsort(descending=True, stable=True)
    return order[int(COMMONEST * d_vocab) : d_vocab - int(RAREST * d_vocab)]


def random_repeats_of(known: Int[Tensor, " known"], text: Text, count: int, seed: int) -> HeldOut:
    """One-shot repeats of the tokens in `known`."""
    drawn = one_shot(text, count, seed)
    return drawn._replace(tokens=known[drawn.tokens])


def losses_of(
    weights: Weights, tokens: Int[Tensor, "batch pos"], shape: Architecture
) -> Float[Tensor, "instance batch next"]:
    """Loss of every token, for every instance, a piece at a time."""
    return torch.cat([losses_on(weights, piece, shape) for piece in torch.split(tokens, PIECE)], 1)


def in_context_score(
    long: Float[Tensor, "instance batch next"], short: Float[Tensor, "instance batch near"], contexts: Contexts
) -> Float[Tensor, " instance"]:
    """Mean loss after the long context minus after the short one; negative where far context helps."""
    late = long[..., contexts.late : contexts.late + contexts.width]
    return (late - early_losses(short, contexts)).mean((1, 2))


def early_losses(
    short: Float[Tensor, "instance batch near"], contexts: Contexts
) -> Float[Tensor, "instance batch target"]:
    """Losses of the judged targets after the short context."""
    return short[..., contexts.early : contexts.early + contexts.width]


def sampled_copying(weights: Weights, shape: Architecture, known: Int[Tensor, " known"]) -> Tensor:
    """Copying score [instance layer head]: mean over samples of 25 tokens, as in the paper."""
    each = written(weights, shape)
    generator = torch.Generator().manual_seed(0)
    draws = [known[torch.randperm(len(known), generator=generator)[:SAMPLE].to(known.device)] for _ in range(SAMPLES)]
    return torch.stack([copying(each[..., ids, :][..., ids]) for ids in draws]).mean(0)


def track_text(
    weights: Weights, held: Stretches, once: HeldOut, known: Int[Tensor, " known"], shape: Architecture
) -> Weights:
    """All that is recorded along training: [instance ...] each."""
    cache: Weights = {}
    losses_on(weights, once.tokens, shape, cache=cache)
    long, short = losses_of(weights, held.long, shape), losses_of(weights, held.short, shape)
    return {
        "loss": long.mean((1, 2)),
        "score": in_context_score(long, short, held.contexts),
        "index_loss": long.mean(1),
        "token_loss": long.flatten(1)[:, :: max(1, long[0].numel() // PATH_TOKENS)][:, :PATH_TOKENS],
        "copying": sampled_copying(weights, shape, known),
        **scores(patterns(cache, shape), once),
    }
