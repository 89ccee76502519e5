"""Named features: the unit that best detects a pattern, and whether the model uses it as that.

Bricken et al. 2023, section "Detailed investigations of individual features": density, sensitivity and specificity of a
feature for a context that a rule decides. Also its effect on the logits, and what pinning and ablating it do. Unit and
threshold are those with the largest F1 on one half of the documents; every number is from the other half. Every kind of
unit goes through the same choice.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from replications.monosemanticity.explain import PRIOR, pair_table
from replications.monosemanticity.held_out import HeldOut
from replications.monosemanticity.model import Reading
from replications.monosemanticity.units import Kind

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)  # shares of a unit's largest activation that may be its threshold
LIFT, SEEN = 2.0, 5  # a token is of a pattern if it is that much more frequent inside, and seen so often there


class Choice(NamedTuple):
    """For each pattern the best unit and its threshold."""

    unit: Int[Tensor, " pattern"]
    threshold: Float[Tensor, " pattern"]


class Detection(NamedTuple):
    """How well a unit above its threshold detects its pattern."""

    f1: Float[Tensor, " pattern"]
    precision: Float[Tensor, " pattern"]
    recall: Float[Tensor, " pattern"]
    density: Float[Tensor, " pattern"]


def thresholds(activations: Float[Tensor, "n unit"]) -> Float[Tensor, "level unit"]:
    """Shares of each unit's largest activation."""
    return torch.tensor(LEVELS)[:, None] * activations.amax(0)


def choose(activations: Float[Tensor, "n unit"], labels: Bool[Tensor, "n pattern"]) -> Choice:
    """The unit and threshold with the largest F1."""
    bounds, inside = thresholds(activations), labels.float()
    scores = []
    for bound in bounds:
        fires = (activations > bound).float()
        scores.append(2 * (inside.mT @ fires) / (inside.sum(0)[:, None] + fires.sum(0)).clamp(min=1))
    best = torch.stack(scores, 1).flatten(1).argmax(1)
    level, unit = best // activations.shape[1], best % activations.shape[1]
    return Choice(unit, bounds[level, unit])


def detect(activations: Float[Tensor, "n unit"], labels: Bool[Tensor, "n pattern"], choice: Choice) -> Detection:
    """What the chosen units are worth on other documents."""
    fires = activations[:, choice.unit] > choice.threshold
    right = (fires & labels).sum(0).double()
    precision, recall = (right / one.sum(0).clamp(min=1) for one in (fires, labels))
    f1 = 2 * right / (fires.sum(0) + labels.sum(0)).clamp(min=1)
    return Detection(f1, precision, recall, fires.double().mean(0))


def symbol_units(text: HeldOut, d_vocab: int) -> dict[str, Float[Tensor, "n unit"]]:
    """What knows the symbols and no network, as units that go through the same choice of unit and threshold.

    A threshold on the shares of a pattern at each present token makes a set of tokens, on those of pairs a table.
    """
    return {
        "single_token": one_hot_tokens(text, d_vocab),
        "token_set": pattern_shares(text, pairs=False),
        "token_pairs": pattern_shares(text),
    }


def pattern_shares(text: HeldOut, *, pairs: bool = True) -> Float[Tensor, "n pattern"]:
    """Share of each pattern at this token, or behind this pair, on the documents that are not judged.

    A token of these does not count itself: pairs that were seen once would seem to know their pattern.
    """
    made, own = ~text.scored, text.labels.float()
    table = pair_table(own[made], text.previous[made], text.token[made], text.d_vocab)
    found = table.at(text.previous, text.token, pairs=pairs)
    key = (text.previous if pairs else 0) * text.d_vocab + text.token
    seen = torch.bincount(key[made], minlength=int(key.max()) + 1)[key][:, None] + PRIOR
    return torch.where(made[:, None], (found * seen - own) / (seen - 1), found).clamp(min=0)


def one_hot_tokens(text: HeldOut, d_vocab: int) -> Float[Tensor, "n token"]:
    """Units that fire on one present or one previous token: what a detector is that knows nothing else."""
    hot = torch.nn.functional.one_hot
    return torch.cat([hot(text.token, d_vocab), hot(text.previous, d_vocab)], 1).float()


def tokens_of_patterns(text: HeldOut, d_vocab: int) -> Bool[Tensor, "pattern d_vocab"]:
    """Tokens that are more frequent inside each pattern than outside, on the documents that are not judged."""
    inside, following = text.next_labels[~text.scored], text.following[~text.scored]
    within, without = (
        torch.stack([torch.bincount(following[column], minlength=d_vocab) for column in side.mT]).float()
        for side in (inside, ~inside)
    )
    shares = [(one + 1) / (one.sum(1, keepdim=True) + d_vocab) for one in (within, without)]
    return (within >= SEEN) & (shares[0] > LIFT * shares[1])


def push_effect(
    kind: Kind, choice: Choice, members: Bool[Tensor, "pattern d_vocab"], text: HeldOut, count: int
) -> Float[Tensor, " pattern"]:
    """`pushed` along the directions of the chosen units."""
    return pushed(kind.reading, kind.rows[choice.unit], members, text, count)


def pushed(
    reading: Reading,
    directions: Float[Tensor, "pattern d_mlp"],
    members: Bool[Tensor, "pattern d_vocab"],
    text: HeldOut,
    count: int,
) -> Float[Tensor, " pattern"]:
    """Change of the log odds that a token of the pattern follows, where the pattern is absent, in nats.

    The neurons are pushed along each direction by their own mean norm, the same distance for every direction. The paper
    pins a feature at its largest activation; neurons would then be pushed by other distances than latents.
    """
    length = float(reading.x.norm(dim=1).mean())
    effects = []
    for pattern, direction in enumerate(directions):
        away = (text.scored & ~text.labels[:, pattern] & ~text.next_labels[:, pattern]).nonzero()[:, 0]
        rows = away[:: max(1, len(away) // count)][:count]
        x = reading.x[rows]
        moved = x + length * direction / direction.norm().clamp(min=1e-9)
        odds = [_log_odds(reading.logits(one, rows), members[pattern]) for one in (moved, x)]
        known = bool(members[pattern].any()) and len(rows) > 0  # not so at scale smoke
        effects.append((odds[0] - odds[1]).double().mean() if known else x.new_zeros(()).double())
    return torch.stack(effects)


def pattern_means(reading: Reading, text: HeldOut) -> Float[Tensor, "pattern d_mlp"]:
    """Mean activation inside each pattern minus that outside it, on the documents that are not judged.

    What knows a pattern as well as labels allow, without a dictionary.
    """
    x, labels = reading.x[~text.scored], text.labels[~text.scored]
    sides = [one.mT.float() @ x / one.sum(0).clamp(min=1)[:, None] for one in (labels, ~labels)]
    return sides[0] - sides[1]


def readouts(reading: Reading, members: Bool[Tensor, "pattern d_vocab"]) -> Float[Tensor, "pattern d_mlp"]:
    """What neurons add to the mean logit of each pattern's tokens minus that of all others.

    It needs the answer and no activations: the direction that writes these tokens, and not a unit that reads a pattern.
    """
    weights = [one.float() / one.sum(1).clamp(min=1)[:, None] for one in (members, ~members)]
    return (weights[0] - weights[1]) @ (reading.to_middle @ reading.to_logits).mT


def _log_odds(logits: Float[Tensor, "n d_vocab"], members: Bool[Tensor, " d_vocab"]) -> Float[Tensor, " n"]:
    return logits[:, members].logsumexp(1) - logits[:, ~members].logsumexp(1)


def ablation_cost(kind: Kind, choice: Choice, text: HeldOut) -> Float[Tensor, "where pattern"]:
    """Added loss where the unit fires above its threshold, when it is set to 0: inside the pattern, and outside it."""
    costs = []
    for pattern, (unit, bound) in enumerate(zip(choice.unit.tolist(), choice.threshold.tolist(), strict=True)):
        own = kind.activations[:, unit]
        rows = (text.scored & (own > bound)).nonzero()[:, 0]
        x, following = kind.reading.x[rows], text.following[rows]
        edited = x - own[rows, None] * kind.rows[unit]
        losses = [
            torch.nn.functional.cross_entropy(kind.reading.logits(one, rows), following, reduction="none").double()
            for one in (edited, x)
        ]
        inside = text.next_labels[rows, pattern]
        added = losses[0] - losses[1]
        costs.append(
            torch.stack([added[mask].mean() if bool(mask.any()) else added.new_zeros(()) for mask in (inside, ~inside)])
        )
    return torch.stack(costs, 1)


def raised_tokens(kind: Kind, unit: int, words: list[str], most: int) -> list[str]:
    """The tokens whose logits the unit's direction raises most (without the last LayerNorm's division)."""
    weights = kind.rows[unit] @ kind.reading.to_middle @ kind.reading.to_logits
    return [words[token] for token in weights.topk(most).indices.tolist()]
