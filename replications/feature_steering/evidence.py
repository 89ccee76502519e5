"""Comparisons over topics: effect, controls and paired differences, with intervals over whole topics.

All answers of a topic share their vector, so topics are what is resampled. A share that is the same in every topic has
no spread to resample. It gets the Wilson interval, with as many draws as there are topics.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.shares import with_width
from common.core.statistics import over_clusters

ByTopic = Float[np.ndarray, " topic"]


def by_topic(frame: pd.DataFrame, method: str, dose: float, column: str) -> ByTopic:
    """Mean of a column over a method's answers at one dose, for each topic, in the order of the topics."""
    own = frame[(frame["method"] == method) & np.isclose(frame["dose"], dose)]
    return own.groupby("topic")[column].mean().sort_index().to_numpy()


def over_topics(values: ByTopic, unit: str, formula: str, controls: Mapping[str, ByTopic] | None = None) -> Metric:
    """Mean over topics beside its controls on the same topics and questions."""
    found = over_clusters(
        values, np.arange(len(values)), unit=unit, formula=formula, cluster="topics", controls=controls
    )  # fmt: skip
    return with_width(found) if unit == "share" else found
