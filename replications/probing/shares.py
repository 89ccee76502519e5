"""Shares of words or tokens with intervals over clusters, where a control may be 0 throughout.

A share that is 0 (or 1) in every cluster has no spread to resample. Its interval is then the exact binomial one, with
as many draws as there are clusters, and that of a difference without spread goes from one end of both to the other.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from common.core.metrics import Control, Estimate, Metric
from common.core.statistics import LEVEL, over_clusters


def share(
    values: Float[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"],
    formula: str,
    cluster: str,
    controls: Mapping[str, Float[np.ndarray, " n"]] | None = None,
) -> Metric:
    """Mean of shares between 0 and 1 beside its controls on the same items."""
    found = over_clusters(values, clusters, unit="share", formula=formula, cluster=cluster, controls=controls)
    count = len(np.unique(clusters))
    wide = found.model_copy(update=_widened(found, count))
    checked = []
    for one in found.controls:
        control = one.model_copy(update=_widened(one, count))
        if one.difference.ci_low == one.difference.ci_high:
            low, high = wide.ci_low - control.ci_high, wide.ci_high - control.ci_low
            difference = Estimate(value=one.difference.value, ci_low=low, ci_high=high)
            control = control.model_copy(update={"difference": difference})
        checked.append(Control.model_validate(control.model_dump()))
    return wide.model_copy(update={"controls": checked})


def _widened(found: Estimate, clusters: int) -> dict[str, float]:
    """The exact binomial interval of a share that was the same, 0 or 1, in every cluster."""
    if found.ci_low < found.ci_high or found.value not in (0.0, 1.0):
        return {}
    beyond = 1 - ((1 - LEVEL) / 2) ** (1 / clusters)
    return {"ci_high": beyond} if found.value == 0 else {"ci_low": 1 - beyond}
