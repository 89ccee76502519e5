"""How large scores are in a twin, which holds no circuit, against those of the planted circuit.

    twin_size_<finder>     largest score in the twin / largest score in the planted model
    planted_size_<finder>  median score of what is planted / largest score in the planted model

`any` is the worst finder of a seed: the largest of the first and the smallest of the second.
"""

import pandas as pd

from common.core.metrics import Metric
from common.core.statistics import over_seeds

FORMULAS = {
    "twin_size": "largest score in the twin / largest score in the planted model",
    "planted_size": "median score of what is planted / largest score in the planted model",
}


def relative_sizes(largest: dict[str, float], median: dict[str, float], in_twin: dict[str, float]) -> dict[str, float]:
    """The sizes of one seed, from the largest score, the median planted score and the largest in the twin by finder."""
    kinds = {"twin_size": in_twin, "planted_size": median}
    record = {f"{kind}_{name}": sizes[name] / largest[name] for kind, sizes in kinds.items() for name in in_twin}
    record["twin_size_any"] = max(record[f"twin_size_{name}"] for name in in_twin)
    record["planted_size_any"] = min(record[f"planted_size_{name}"] for name in in_twin)
    return record


def measure_sizes(records: pd.DataFrame) -> dict[str, Metric]:
    """Means over seeds of both sizes and of their difference; a row of `relative_sizes` per seed."""
    metrics = {}
    for name in (str(column).removeprefix("twin_size_") for column in records if str(column).startswith("twin_size")):
        for kind, text in FORMULAS.items():
            metrics[f"{kind}_{name}"] = over_seeds(records[f"{kind}_{name}"].tolist(), unit="1", formula=text)
        gap = (records[f"twin_size_{name}"] - records[f"planted_size_{name}"]).tolist()
        metrics[f"twin_size_{name}_minus_planted"] = over_seeds(gap, unit="1", formula="the first minus the second")
    return metrics
