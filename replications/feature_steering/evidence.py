"""Comparisons over concepts: effect, nulls and paired differences with intervals over whole concepts.

Texts of one concept share its steering vector, so concepts are what is resampled. Many concepts are modules of one
package, so some comparisons also come with whole packages as clusters. `per_seed` are means of the seeds, each with its
own dictionary, prompts, random numbers and nulls.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.statistics import over_clusters

Table = Float[np.ndarray, "concept seed"]
MEASURES = {
    "gain": (0.0, "1", "score of the concept by the probe, steered minus unsteered text"),
    "gain_lexicon": (0.0, "share", "share of the concept's lexicon among the tokens, steered minus unsteered text"),
    "specific": (0.5, "share", "share of other concepts whose probe score gains less than the concept's"),
}
"""Column: value of a text that is left alone, unit, formula."""


def over_concepts(
    values: Table,
    unit: str,
    formula: str,
    controls: Mapping[str, Table] | None = None,
    packages: Sequence[str] | None = None,
) -> Metric:
    """Mean beside its controls on the same prompts and random numbers, and the mean of each seed.

    Args:
        values: mean of each concept and seed; with one column there is no value per seed.
        controls: the same for each control.
        packages: of each concept, if whole packages are to be resampled.
    """
    concepts, seeds = values.shape
    return over_clusters(
        values.ravel(),
        np.repeat(np.arange(concepts) if packages is None else np.array(packages), seeds),
        unit=unit,
        formula=formula,
        cluster="concepts" if packages is None else "packages",
        groups=np.tile(np.arange(seeds), concepts) if seeds > 1 else None,
        controls={name: control.ravel() for name, control in (controls or {}).items()},
    )


def table(own: pd.DataFrame, column: str, concepts: int, seeds: list[int], absent: float) -> Table:
    """Mean of a column for each concept and seed; `absent` where the model was left alone."""
    means = own.groupby(["concept", "seed"])[column].mean().to_dict()
    return np.array([[means.get((concept, seed), absent) for seed in seeds] for concept in range(concepts)])


def at_length(scored: pd.DataFrame, method: str, length: float, column: str, concepts: int, seeds: list[int]) -> Table:
    """Mean of a measure over a method's texts at one length, for each concept and seed."""
    rows = scored[(scored["method"] == method) & (scored["multiplier"] == length)]
    return table(rows, column, concepts, seeds, MEASURES[column][0])


def slopes(doses: Float[np.ndarray, "concept seed dose"], lengths: list[float]) -> Table:
    """Least-squares slope, with an intercept, of values over lengths."""
    centred = np.array(lengths) - np.mean(lengths)
    return np.asarray(doses @ centred / (centred @ centred))


def wins(gains: Table, others: Table) -> Float[np.ndarray, "concept 1"]:
    """1 for each concept on which the first gains more, over all its texts, 0 where it gains less, 0.5 for ties."""
    return np.asarray(0.5 + 0.5 * np.sign(gains.mean(1) - others.mean(1))[:, None])
