"""Documents drawn with replacement, and intervals over them: tokens of one document are not independent."""

import numpy as np
from jaxtyping import Float, Int

from common.core.metrics import Metric
from common.core.statistics import from_draws


def drawn(documents: int, draws: int) -> Int[np.ndarray, "draw document"]:
    """How often each document counts when as many as there are are drawn with replacement; the same in every call."""
    return np.random.default_rng(0).multinomial(documents, np.full(documents, 1 / documents), size=draws)


def under_documents(known: Metric, draws: Float[np.ndarray, " draw"], documents: int) -> Metric:
    """A metric over seeds with the interval over resampled documents instead, the same ones for all seeds and sides."""
    formula = f"{known.formula}; interval over resampled documents, seeds held fixed"
    found = from_draws(known.value, draws, n=documents, unit=known.unit, formula=formula)
    return found.model_copy(update={"per_seed": known.per_seed})
