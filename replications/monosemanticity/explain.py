"""Explanations that are tables of tokens, and how well they predict activations on other documents.

Bills et al. 2023 and Bricken et al. 2023 let a language model explain a unit and simulate its activations from the
explanation. The score is the correlation of simulated and true activations. Here the explanation is the strongest that
two tokens allow. It is the mean activation behind each pair of previous and present token, on half of the held-out
documents. Rare pairs fall back on the present token, rare tokens on the unit's mean. Nothing is judged, and no unit is
favoured for its rate. The correlation on the other documents is stated

- `all`: over all tokens; `token`: the same from the present token alone;
- `within`: over what is left when true and simulated activations lose their mean at each present token. This asks for
  something beyond the identity of the token, which any network passes on, trained or not.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from replications.monosemanticity.held_out import HeldOut

PRIOR = 2.0  # imaginary occurrences of the coarser mean


class Score(NamedTuple):
    """Correlation of true and predicted activations of each unit."""

    all: Float[Tensor, " unit"]
    token: Float[Tensor, " unit"]
    """predicted from the present token alone"""
    within: Float[Tensor, " unit"]


def means(
    values: Float[Tensor, "n unit"], key: Int[Tensor, " n"], keys: int, prior: Float[Tensor, "prior unit"] | None = None
) -> Float[Tensor, "key unit"]:
    """Mean of the values at each key, shrunk to `prior` as if that had been seen `PRIOR` times."""
    sums = torch.zeros(keys, values.shape[1]).index_add_(0, key, values)
    count = torch.bincount(key, minlength=keys)[:, None]
    if prior is None:
        return sums / count.clamp(min=1)
    return (sums + PRIOR * prior) / (count + PRIOR)


class PairTable(NamedTuple):
    """Mean values at each present token and behind each pair of previous and present token that was seen."""

    by_token: Float[Tensor, "d_vocab unit"]
    known: Int[Tensor, " pair"]
    """previous * d_vocab + present, in order"""
    by_pair: Float[Tensor, "pair unit"]

    def at(
        self, previous: Int[Tensor, " n"], token: Int[Tensor, " n"], *, pairs: bool = True
    ) -> Float[Tensor, "n unit"]:
        """What the table says; a pair that was never seen, and every one without `pairs`, has its token's mean."""
        if not pairs:
            return self.by_token[token]
        key = previous * len(self.by_token) + token
        at = torch.searchsorted(self.known, key).clamp(max=len(self.known) - 1)
        return torch.where((self.known[at] == key)[:, None], self.by_pair[at], self.by_token[token])


def pair_table(
    values: Float[Tensor, "n unit"], previous: Int[Tensor, " n"], token: Int[Tensor, " n"], d_vocab: int
) -> PairTable:
    """Pairs are shrunk to the mean of their token, tokens to the mean of all."""
    by_token = means(values, token, d_vocab, values.mean(0)[None])
    known, place = torch.unique(previous * d_vocab + token, return_inverse=True)
    return PairTable(by_token, known, means(values, place, len(known), by_token[known % d_vocab]))


def predicted(
    activations: Float[Tensor, "n unit"], text: HeldOut, *, pairs: bool = True
) -> Float[Tensor, "judged unit"]:
    """Activations on the judged tokens as the explanation has them; without `pairs` from the present token alone."""
    made, judged = ~text.scored, text.scored
    table = pair_table(activations[made], text.previous[made], text.token[made], text.d_vocab)
    return table.at(text.previous[judged], text.token[judged], pairs=pairs)


def explained(activations: Float[Tensor, "n unit"], text: HeldOut) -> Score:
    """How well the explanations of all units predict their activations on the judged documents."""
    true, guess, token = activations[text.scored], predicted(activations, text), text.token[text.scored]
    d_vocab = int(token.max()) + 1
    inner = [one - means(one, token, d_vocab)[token] for one in (true, guess)]
    alone = predicted(activations, text, pairs=False)
    return Score(correlation(true, guess), correlation(true, alone), correlation(*inner))


def correlation(a: Float[Tensor, "n unit"], b: Float[Tensor, "n unit"]) -> Float[Tensor, " unit"]:
    """Pearson correlation column by column; 0 for a constant column."""
    a, b = a - a.mean(0), b - b.mean(0)
    below = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return (a * b).sum(0) / below.clamp(min=1e-9)


def distinguishing_tokens(fires: Bool[Tensor, " n"], text: HeldOut, words: list[str], most: int) -> list[str]:
    """The tokens, present or previous, on which firings are concentrated: largest difference of the two shares."""
    sides = []
    for name, key in (("", text.token), ("after ", text.previous)):
        inside, outside = (torch.bincount(key[mask], minlength=len(words)).float() for mask in (fires, ~fires))
        gain = inside / inside.sum().clamp(min=1) - outside / outside.sum().clamp(min=1)
        best = gain.topk(most)
        sides.append((float(best.values.clamp(min=0).sum()), name, best.indices[best.values > 0].tolist()))
    _, name, tokens = max(sides)
    return [name + words[token] for token in tokens]
