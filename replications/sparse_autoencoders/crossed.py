"""Intervals of ratios where several dictionaries are judged on the same documents: seeds and documents are resampled.

`over_clusters` with `models` draws the clusters of each model anew, as if no two models shared one. Dictionaries of
several seeds share their documents. So a resample draws seeds and documents once each, and takes their products.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from common.core.metrics import Metric, Uncertainty
from common.core.statistics import from_draws, with_control

DRAWS = 40_000  # ends of intervals then vary by a hundredth of the half-width between other draws


class Ratio(NamedTuple):
    """What a ratio is made of, summed over the tokens of each document; its value is the mean over parts."""

    above: Float[np.ndarray, "seed part document"]
    below: Float[np.ndarray, "seed part document"]


class Resampled(NamedTuple):
    """The ratio on the data, on each resample, and for each seed alone."""

    value: float
    draws: Float[np.ndarray, " resample"]
    each: Float[np.ndarray, " seed"]


def by_document(
    values: Float[np.ndarray, "*n token"], document: Int[np.ndarray, " token"]
) -> Float[np.ndarray, "*n _"]:
    """Sums over the tokens of each document, in the order of their numbers."""
    place = np.unique(document, return_inverse=True)[1]
    flat = values.reshape(-1, values.shape[-1])
    return np.array([np.bincount(place, weights=one) for one in flat]).reshape(*values.shape[:-1], -1)


def over_seeds_and_documents(
    effect: Ratio, controls: Mapping[str, Ratio], *, n: int, unit: str, formula: str, clusters: str = "documents"
) -> Metric:
    """A mean over parts of ratios of sums, beside the same of each control in the same resamples.

    With few seeds the interval is rather too short: three seeds resampled vary by two thirds of what they should.

    Args:
        effect: of every seed on every document.
        controls: likewise; a control without seeds has one, which stands for each.
        n: number of observations.
        unit: of the value.
        formula: id or short text of what the value is.
        clusters: what the last axis stands for.
    """
    seeds, _, documents = effect.above.shape
    dice = np.random.default_rng(0)
    of_seeds, of_documents = (
        dice.multinomial(count, np.full(count, 1 / count), DRAWS).astype(float) for count in (seeds, documents)
    )

    def resampled(ratio: Ratio) -> Resampled:
        above, below = (np.broadcast_to(side, (seeds, *side.shape[1:])) for side in ratio)
        drawn = [np.einsum("rs,spd,rd->rp", of_seeds, side, of_documents, optimize=True) for side in (above, below)]
        return Resampled(
            float(_ratio(above.sum((0, 2)), below.sum((0, 2)))), _ratio(*drawn), _ratio(above.sum(2), below.sum(2))
        )

    def metric(found: Resampled) -> Metric:
        uncertainty = Uncertainty(unit=f"{clusters} and seeds" if seeds > 1 else clusters, count=documents)
        made = from_draws(found.value, found.draws, n=n, unit=unit, formula=formula, uncertainty=uncertainty)
        return made.model_copy(update={"per_seed": found.each.tolist() if seeds > 1 else None})

    own = resampled(effect)
    result = metric(own)
    for name, one in controls.items():
        other = resampled(one)
        apart = Resampled(own.value - other.value, own.draws - other.draws, own.each - other.each)
        result = with_control(result, name, metric(other), metric(apart))
    return result


def _ratio(above: Float[np.ndarray, "*n part"], below: Float[np.ndarray, "*n part"]) -> Float[np.ndarray, "*n"]:
    """Mean over parts; a part of which a resample has nothing counts as 0."""
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below != 0).mean(-1))
