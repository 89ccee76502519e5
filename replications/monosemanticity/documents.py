"""Documents drawn with replacement, and intervals over them: tokens of one document are not independent."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from common.core.metrics import Estimate, Metric, Uncertainty
from common.core.statistics import from_draws, with_control

Draws = Float[np.ndarray, " draw"]


def drawn(documents: int, draws: int) -> Int[np.ndarray, "draw document"]:
    """How often each document counts when as many as there are are drawn with replacement; the same in every call."""
    return np.random.default_rng(0).multinomial(documents, np.full(documents, 1 / documents), size=draws)


def under_documents(known: Metric, draws: Draws, controls: Mapping[str, Draws], documents: int) -> Metric:
    """A metric over seeds with intervals over resampled documents instead, the same ones for all seeds and sides.

    Args:
        known: has a value for each seed; those of its controls that `controls` names are kept.
        draws: mean over seeds under each draw of documents.
        controls: the same for each control.
        documents: how many there are.
    """

    def estimate(one: Estimate, values: Draws) -> Metric:
        about = Uncertainty(unit="documents", count=documents)
        found = from_draws(
            one.value, values, n=documents, unit=known.unit, formula=f"{known.formula}; seeds held fixed",
            uncertainty=about,
        )  # fmt: skip
        return found.model_copy(update={"per_seed": one.per_seed})

    found = estimate(known, draws)
    for name, values in controls.items():
        control = known.control(name)
        found = with_control(found, name, estimate(control, values), estimate(control.difference, draws - values))
    return found
