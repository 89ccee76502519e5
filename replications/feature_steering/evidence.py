"""How sure a difference between two dials is: in standard errors over concepts, as a slope over doses, as wins.

*Deviate* of a difference: its mean over concepts divided by its standard error, where a concept's value is the mean
over its texts of all seeds. Texts of one concept share its dial, so concepts are what is counted. Many concepts are
modules of one package, so the standard error is also given with whole packages as clusters (sandwich estimate with the
factor G / (G - 1) for G packages).

*Dose-response*: least-squares slope of the difference over the length of the added vector, with an intercept, length 0
included. There both dials leave the model alone and write the same text from the same random numbers, so the difference
is exactly 0 and no text is needed. Every length has as many texts as any other.

*Wins*: on how many concepts one dial gains more than the other; the sign test's deviate is (wins - losses) / sqrt(n).
A deviate and a count have no interval of their own: their records have one of width 0.
"""

import numpy as np
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.statistics import over_clusters, without_interval

Values = Float[np.ndarray, " concept"]
Table = Float[np.ndarray, "concept seed"]


def over_concepts(values: Table, unit: str, formula: str) -> Metric:
    """Mean with an interval over concepts, and the mean of each seed."""
    flat = values.ravel()
    clusters = np.repeat(np.arange(len(values)), values.shape[1])
    found = over_clusters(flat, clusters, unit=unit, formula=formula)
    return found.model_copy(update={"per_seed": [float(value) for value in values.mean(0)]})


def standard_error(values: Values, clusters: list[str] | None = None) -> float:
    """Of the mean of one value per concept; concepts of one cluster may depend on each other, if clusters are given."""
    names = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(names, weights=values - values.mean())
    if len(sums) < 2:
        return 0.0
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values))


def deviate(values: Values, clusters: list[str] | None = None) -> float:
    """Mean over its standard error; 0 where nothing varies, as for a dial that was left alone."""
    error = standard_error(values, clusters)
    return float(values.mean() / error) if error > 1e-12 else 0.0


def deviates(name: str, difference: Table, packages: list[str], formula: str) -> dict[str, Metric]:
    """Deviates of a difference, with concepts and with packages as clusters."""
    values = difference.mean(1)
    return {
        f"{name}_z": without_interval(
            deviate(values), len(values), "standard errors", f"{formula}; over its s.e. over concepts"
        ),
        f"{name}_z_by_package": without_interval(
            deviate(values, packages), len(set(packages)), "standard errors", f"{formula}; over its s.e. over packages"
        ),
    }


def slopes(doses: Float[np.ndarray, "concept seed dose"], lengths: list[float]) -> Table:
    """Least-squares slope, with an intercept, of values over lengths."""
    centred = np.array(lengths) - np.mean(lengths)
    return np.asarray(doses @ centred / (centred @ centred))


def wins(one: str, other: str, gains: Values, others: Values) -> dict[str, Metric]:
    """Share of concepts on which `one` gains more (ties count half) with its interval, and the sign test's deviate."""
    won, name = 0.5 + 0.5 * np.sign(gains - others), f"{one}_over_{other}"
    said = f"concepts on which {one} gains more than {other}"
    share = over_clusters(won, np.arange(len(won)), unit="share", formula=said)
    decided = max(1, int((won != 0.5).sum()))
    sign = float((won - 0.5).sum() * 2 / np.sqrt(decided))
    formula = f"(wins - losses) / sqrt(wins + losses) of {one} against {other}, over concepts"
    return {f"{name}_share": share, f"{name}_sign": without_interval(sign, decided, "standard errors", formula)}
