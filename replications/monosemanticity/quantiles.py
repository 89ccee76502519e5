"""Detection AUROC and purity by quarter of a unit's activations, on held-out documents, under resampled documents.

A set of tokens says yes or no (`explain.py`), and its size bounds what it can say of a unit that fires often. Here the
whole lexical explanation is asked, the rate of firing on each present or previous token, as counted on the documents
that are not scored:

- *ranking* (detection AUROC): contexts ordered by -sum_t log(1 - rate_t), which orders them by the probability that the
  unit fires if tokens were independent. Positive: contexts whose strongest activation lies in a quarter of those of the
  unit; negative: contexts in which it does not fire. Ties count half.
- *purity*: share of the firings of a quarter that is on one token, the unit's commonest on the other documents.

Bricken et al. 2023 show activation quantiles for the same reason: the strongest firings alone flatter a unit. Weights
of documents have one column per draw; the first column counts every document once.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from replications.monosemanticity.documents import drawn
from replications.monosemanticity.explain import QUARTERS, Explanations, grouped, peaks, quarters, summed, token_counts
from replications.monosemanticity.units import Firings, Text

NEARLY = 1 - 1e-6  # highest rate, of a unit that always fires
Weights = Float[np.ndarray, "document draw"]
ByQuarter = Float[np.ndarray, "quarter unit draw"]


def resampled(text: Text, draws: int) -> Weights:
    """How often each scored document counts: once in the first column, drawn with replacement in the others."""
    judged = np.unique(text.document[text.scored])
    weights = np.zeros((int(text.document.max()) + 1, 1 + draws), dtype=np.float32)
    weights[judged] = np.concatenate([np.ones((1, len(judged))), drawn(len(judged), draws)]).T
    return weights


def ranking(found: Explanations, firings: Firings, text: Text, context: int, weights: Weights) -> ByQuarter:
    """AUROC of telling contexts of each quarter from contexts in which the unit does not fire; NaN without contexts."""
    groups = grouped(text, context)
    count = int(groups.max()) + 1
    judged, document = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64)
    judged[groups[text.scored]] = True
    document[groups] = text.document
    surprise = -np.log1p(-np.minimum(found.rates, NEARLY)).astype(np.float32)
    likely = summed(surprise, found.previous, text, groups, text.scored)[:, judged]
    strongest, counted = peaks(firings, text, groups)[:, judged], weights[document[judged]]
    rows, columns = np.nonzero(strongest)
    part = np.full(strongest.shape, -1, dtype=np.int8)
    part[rows, columns] = quarters(rows, strongest[rows, columns], firings.units)
    out = np.full((QUARTERS, firings.units, weights.shape[1]), np.nan, dtype=np.float32)
    for unit, own in enumerate(part):
        on = own >= 0
        out[:, unit] = areas(likely[unit, on], likely[unit, ~on], counted[on], counted[~on], own[on])
    return out


def areas(
    positive: Float[np.ndarray, " positive"],
    negative: Float[np.ndarray, " negative"],
    weight_positive: Float[np.ndarray, "positive draw"],
    weight_negative: Float[np.ndarray, "negative draw"],
    part: Int[np.ndarray, " positive"],
) -> Float[np.ndarray, "quarter draw"]:
    """P(a positive scores above a negative) + P(tie) / 2 for the positives of each quarter; NaN without any."""
    order = np.argsort(negative)
    up_to = np.concatenate([np.zeros((1, weight_negative.shape[1])), np.cumsum(weight_negative[order], axis=0)])
    low, high = (np.searchsorted(negative[order], positive, side) for side in ("left", "right"))
    wins = (up_to[low] + up_to[high]) / 2 * weight_positive
    belongs = (np.arange(QUARTERS)[:, None] == part).astype(np.float32)
    return _share(belongs @ wins, (belongs @ weight_positive) * weight_negative.sum(0))


def purity(firings: Firings, text: Text, d_vocab: int, weights: Weights) -> ByQuarter:
    """Share of the firings of each quarter that is on the unit's commonest token; NaN without firings."""
    top = token_counts(firings, text.token, ~text.scored, d_vocab).argmax(1)
    use = text.scored[firings.place]
    unit, place = firings.unit[use], firings.place[use]
    part = quarters(unit, firings.value[use], firings.units)
    shape = (QUARTERS, firings.units, len(weights))
    flat = np.ravel_multi_index((part, unit, text.document[place]), shape)

    def tally(mask: Bool[np.ndarray, " n"]) -> ByQuarter:
        counts: ByQuarter = np.bincount(flat[mask], minlength=np.prod(shape)).reshape(shape).astype(np.float32)
        sums: ByQuarter = counts @ weights
        return sums

    return _share(tally(text.token[place] == top[unit]), tally(np.ones(len(flat), dtype=bool)))


def known_mean(values: Float[np.ndarray, "quarter unit *draw"], axis: int, empty: float) -> np.ndarray:
    """Mean over quarters (axis 0) or units (axis 1) of the entries that are known, `empty` where none is."""
    known = ~np.isnan(values)
    mean = np.where(known, values, 0).sum(axis) / np.maximum(known.sum(axis), 1)
    found: np.ndarray = np.where(known.any(axis), mean, empty)
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is empty."""
    found: np.ndarray = np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
    return found
