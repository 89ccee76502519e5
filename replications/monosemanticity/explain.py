"""Explanations that are sets of tokens, and how well they say where a unit fires. No judge, no language model.

On one half of the held-out documents each unit gets an explanation: the few tokens which, taken as the present or as
the previous token, best separate where it fires from where it does not (largest difference of the two shares). On the
other half the explanation is scored as auto-interpretation scores a text (Bills et al. 2023, Paulo et al. 2024):

- *detection*: does a context of some tokens make the unit fire? Said to, if it holds a token of the set.
- *fuzzing*: within contexts where the unit fires, does it fire on this token? Said to, if the token is in the set.

Both as balanced accuracy (chance 0.5), in which recall is the mean over the quarters of the unit's activations, so that
weak firings count as much as strong ones. *AUROC* ranks tokens by how often the unit fired on them in the first half.
What this scorer misses: anything that needs more than one token. It favours units that are tokens.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from replications.monosemanticity.units import Firings, Text

QUARTERS = 4
PRIOR = 1.0  # imaginary tokens at the unit's mean rate, in the score of rare tokens
NEIGHBOURS = 10  # units of similar rate among which explanations are exchanged


class Explanations(NamedTuple):
    """For each unit its set of tokens, whether these are previous tokens, and the rate of firing on each token."""

    members: Bool[np.ndarray, "unit d_vocab"]
    previous: Bool[np.ndarray, " unit"]
    rates: Float[np.ndarray, "unit d_vocab"]
    ranked: Int[np.ndarray, "unit set"]
    """the tokens of the set, most telling first, -1 behind the last"""

    def of(self, order: Int[np.ndarray, " unit"]) -> "Explanations":
        """The explanations handed to other units."""
        return Explanations(*(part[order] for part in self))


class Tally(NamedTuple):
    """What a balanced accuracy is made of, by document."""

    hits: Float[np.ndarray, "quarter unit document"]
    positives: Float[np.ndarray, "quarter unit document"]
    alarms: Float[np.ndarray, "unit document"]
    negatives: Float[np.ndarray, "unit document"]

    def accuracy(self, weights: Float[np.ndarray, "document draw"]) -> Float[np.ndarray, "unit draw"]:
        """Balanced accuracy with documents weighted; empty quarters leave the mean, an empty side makes it 0.5."""
        positives, negatives = self.positives @ weights, self.negatives @ weights
        shares = (self.hits @ weights) / np.maximum(positives, 1)
        recall = shares.sum(0) / np.maximum((positives > 0).sum(0), 1)
        passed = 1 - (self.alarms @ weights) / np.maximum(negatives, 1)
        one_sided = (positives.sum(0) == 0) | (negatives == 0)
        found: Float[np.ndarray, "unit draw"] = np.where(one_sided, 0.5, (recall + passed) / 2)
        return found

    def by_quarter(self) -> Float[np.ndarray, "quarter unit"]:
        """Balanced accuracy of each quarter of the activations, the strongest first; NaN for an empty one."""
        positives = self.positives.sum(2)
        recall = np.where(positives > 0, self.hits.sum(2) / np.maximum(positives, 1), np.nan)
        passed = 1 - self.alarms.sum(1) / np.maximum(self.negatives.sum(1), 1)
        found: Float[np.ndarray, "quarter unit"] = (recall + passed) / 2
        return found


def explain(firings: Firings, text: Text, d_vocab: int, size: int) -> Explanations:
    """The best set of at most `size` tokens, from the documents that are not scored."""
    made = ~text.scored
    sides = []
    for key in (text.token, text.previous):
        fired = token_counts(firings, key, made, d_vocab)
        seen = np.bincount(key[made], minlength=d_vocab)
        total = fired.sum(1, keepdims=True)
        gain = fired / np.maximum(total, 1) - (seen - fired) / np.maximum(seen.sum() - total, 1)
        best = np.argpartition(-gain, size - 1, axis=1)[:, :size]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(gain, best, 1), axis=1, kind="stable"), 1)
        helps = np.take_along_axis(gain, best, 1) > 0
        members = np.zeros(gain.shape, dtype=bool)
        np.put_along_axis(members, best, helps, axis=1)
        rate = (fired + PRIOR * total / max(1, made.sum())) / (seen + PRIOR)
        sides.append((members, (gain * members).sum(1), rate, np.where(helps, best, -1)))
    (now, gain_now, rate_now, ranked_now), (before, gain_before, rate_before, ranked_before) = sides
    previous = gain_before > gain_now
    pick = previous[:, None]
    return Explanations(
        np.where(pick, before, now),
        previous,
        np.where(pick, rate_before, rate_now),
        np.where(pick, ranked_before, ranked_now),
    )


def explanation_text(found: Explanations, unit: int, words: list[str], most: int) -> str:
    """The first tokens of an explanation as text, spaces visible."""
    tokens = [visible(words[token]) for token in found.ranked[unit][:most] if token >= 0]
    return ("after " if found.previous[unit] else "") + (" ".join(tokens) or "(nothing)")


def visible(word: str) -> str:
    """A token with its spaces and line breaks visible; what has no glyph becomes a dot."""
    plain = word.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u2192")
    return "".join(one if one.isprintable() and ord(one) < 0x2500 else "\u00b7" for one in plain)


def token_counts(
    firings: Firings, key: Int[np.ndarray, " n"], mask: Bool[np.ndarray, " n"], d_vocab: int
) -> Float[np.ndarray, "unit d_vocab"]:
    """How often each unit fires where `key` is each token, on the tokens of the mask."""
    use = mask[firings.place]
    flat = firings.unit[use] * d_vocab + key[firings.place[use]]
    found: Float[np.ndarray, " flat"] = np.bincount(flat, minlength=firings.units * d_vocab).astype(np.float64)
    return found.reshape(firings.units, d_vocab)


def grouped(text: Text, context: int) -> Int[np.ndarray, " n"]:
    """The number of the context that each token is in; a window is cut into contexts of `context` tokens."""
    window, place = np.divmod(np.arange(text.size()), text.per_window)
    found: Int[np.ndarray, " n"] = window * -(-text.per_window // context) + place // context
    return found


def summed(
    values: Float32[np.ndarray, "unit d_vocab"],
    previous: Bool[np.ndarray, " unit"],
    text: Text,
    group: Int[np.ndarray, " n"],
    mask: Bool[np.ndarray, " n"],
) -> Float[np.ndarray, "unit group"]:
    """Sum over the tokens of each group (those of the mask) of each unit's value of the present or previous token."""
    out = np.zeros((len(values), int(group.max()) + 1), dtype=np.float32)
    here, starts = np.unique(group[mask], return_index=True)  # tokens of a group are neighbours
    for side, key in ((False, text.token), (True, text.previous)):
        units = np.flatnonzero(previous == side)
        out[np.ix_(units, here)] = np.add.reduceat(values[np.ix_(units, key[mask])], starts, axis=1)
    return out


def peaks(firings: Firings, text: Text, group: Int[np.ndarray, " n"]) -> Float[np.ndarray, "unit group"]:
    """The strongest activation of each unit in each group of scored tokens, 0 where it does not fire."""
    use = text.scored[firings.place]
    found = np.zeros((firings.units, int(group.max()) + 1), dtype=np.float32)
    np.maximum.at(found, (firings.unit[use], group[firings.place[use]]), firings.value[use])
    return found


def hit(found: Explanations, firings: Firings, text: Text) -> Bool[np.ndarray, " entry"]:
    """Whether each firing is one that the explanation points at."""
    key = np.where(found.previous[firings.unit], text.previous[firings.place], text.token[firings.place])
    told: Bool[np.ndarray, " entry"] = found.members[firings.unit, key]
    return told


def quarters(unit: Int[np.ndarray, " n"], value: Float[np.ndarray, " n"], units: int) -> Int[np.ndarray, " n"]:
    """The quarter of each entry among those of its unit, 0 for the strongest."""
    order = np.argsort(-value, kind="stable")
    order = order[np.argsort(unit[order].astype(np.min_scalar_type(units)), kind="stable")]  # radix sort: 16 bits
    counts = np.bincount(unit, minlength=units)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(unit), dtype=np.int64)
    rank[order] = np.arange(len(unit)) - starts[unit[order]]
    found: Int[np.ndarray, " n"] = rank * QUARTERS // np.maximum(counts[unit], 1)
    return found


def scored(found: Explanations, firings: Firings, text: Text, context: int) -> tuple[Tally, Tally]:
    """Detection over contexts and fuzzing over tokens, on the scored documents."""
    groups = grouped(text, context)
    n_groups, n_documents = int(groups.max()) + 1, int(text.document.max()) + 1
    document = np.zeros(n_groups, dtype=np.int64)
    document[groups] = text.document
    use = text.scored[firings.place]
    unit, place, value = firings.unit[use], firings.place[use], firings.value[use]
    pointed = summed(found.members.astype(np.float32), found.previous, text, groups, text.scored)
    strongest = peaks(firings, text, groups)
    fires = strongest > 0
    judged = np.zeros(n_groups, dtype=bool)
    judged[groups[text.scored]] = True

    def by_document(table: np.ndarray) -> Float[np.ndarray, "unit document"]:
        wide = np.zeros((n_groups, n_documents), dtype=np.float32)
        wide[np.arange(n_groups), document] = judged
        return table.astype(np.float32) @ wide

    rows, columns = fires.nonzero()
    quarter = np.full(fires.shape, -1, dtype=np.int8)
    quarter[rows, columns] = quarters(rows, strongest[rows, columns], firings.units)
    said = pointed > 0
    detection = Tally(
        np.stack([by_document((quarter == q) & said) for q in range(QUARTERS)]),
        np.stack([by_document(quarter == q) for q in range(QUARTERS)]),
        by_document(~fires & said),
        by_document(~fires),
    )
    hits = hit(found, firings, text)[use]
    part = quarters(unit, value, firings.units)
    flat = (part * firings.units + unit) * n_documents + text.document[place]
    shape, length = (QUARTERS, firings.units, n_documents), QUARTERS * firings.units * n_documents
    positives = np.bincount(flat, minlength=length).reshape(shape)
    right = np.bincount(flat[hits], minlength=length).reshape(shape)
    size = np.bincount(groups, minlength=n_groups)
    fuzzing = Tally(
        right,
        positives,
        by_document(pointed * fires) - right.sum(0),
        by_document(fires * size) - positives.sum(0),
    )
    return detection, fuzzing


def auroc(found: Explanations, firings: Firings, text: Text) -> Float[np.ndarray, " unit"]:
    """Area under the ROC curve of the rates as scores of the scored tokens, ties counted half."""
    d_vocab = found.members.shape[1]
    fired = {side: token_counts(firings, key, text.scored, d_vocab) for side, key in _keys(text)}
    seen = {side: np.bincount(key[text.scored], minlength=d_vocab) for side, key in _keys(text)}
    out = np.full(firings.units, 0.5)
    for unit, side in enumerate(found.previous):
        order = np.argsort(found.rates[unit])
        levels = np.flatnonzero(np.diff(found.rates[unit, order], prepend=np.nan))
        positive = np.add.reduceat(fired[bool(side)][unit, order], levels)
        negative = np.add.reduceat(seen[bool(side)][order], levels) - positive
        if positive.sum() and negative.sum():
            below = np.cumsum(negative) - negative / 2
            out[unit] = float(positive @ below / positive.sum() / negative.sum())
    return out


def _keys(text: Text) -> tuple[tuple[bool, Int[np.ndarray, " n"]], ...]:
    return ((False, text.token), (True, text.previous))


def exchanged(rates: Float[np.ndarray, " unit"], rng: np.random.Generator) -> Int[np.ndarray, " unit"]:
    """Whose explanation each unit gets: another unit's, less than `NEIGHBOURS` places away in the order of rates."""
    order = np.argsort(rates, kind="stable")
    given = np.empty(len(order), dtype=np.int64)
    for block in np.array_split(order, max(1, -(-len(order) // NEIGHBOURS))):
        given[block] = np.roll(block, int(rng.integers(1, len(block)))) if len(block) > 1 else block
    return given
