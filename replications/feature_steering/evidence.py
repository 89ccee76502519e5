"""Comparisons over topics: effect, controls and paired differences, with intervals over whole topics.

All answers of a topic share their vector, so topics are what is resampled. A share that is 0 (or 1) in every topic has
no spread to resample; its interval is then the exact binomial one, with as many draws as there are topics, and that of
a difference without spread goes from one end of both intervals to the other.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Control, Estimate, Metric
from common.core.statistics import LEVEL, over_clusters

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
    if unit != "share":
        return found
    wide = found.model_copy(update=_widened(found, len(values)))
    checked = []
    for one in found.controls:
        control = one.model_copy(update=_widened(one, len(values)))
        if one.difference.ci_low == one.difference.ci_high:
            low, high = wide.ci_low - control.ci_high, wide.ci_high - control.ci_low
            control = control.model_copy(
                update={"difference": Estimate(value=one.difference.value, ci_low=low, ci_high=high)}
            )
        checked.append(Control.model_validate(control.model_dump()))
    return wide.model_copy(update={"controls": checked})


def _widened(share: Estimate, topics: int) -> dict[str, float]:
    """The exact binomial interval of a share that was the same, 0 or 1, in every topic."""
    if share.ci_low < share.ci_high or share.value not in (0.0, 1.0):
        return {}
    beyond = 1 - ((1 - LEVEL) / 2) ** (1 / topics)
    return {"ci_high": beyond} if share.value == 0 else {"ci_low": 1 - beyond}
