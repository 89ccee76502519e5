"""Intervals over prompts: prompts of one template are not independent, so whole templates are resampled."""

import numpy as np
from jaxtyping import Float, Int

from common.core.metrics import Metric
from common.core.statistics import null_distribution, over_clusters, without_interval
from replications.ioi_circuit.dataset import Prompt


def clustered(
    values: Float[np.ndarray, " prompt"],
    prompts: list[Prompt],
    *,
    unit: str,
    formula: str,
    denominators: Float[np.ndarray, " prompt"] | None = None,
    groups: Int[np.ndarray, " prompt"] | None = None,
) -> Metric:
    """Mean of `values`, or ratio of the two means, with an interval over templates.

    `per_seed` has one value for each of `groups`, which are the seeds of the prompts if nothing else is given.
    """
    below = np.ones_like(values) if denominators is None else denominators
    templates = np.array([prompt.template for prompt in prompts])
    metric = over_clusters(values, templates, unit=unit, formula=formula, denominators=below)
    if groups is None:
        groups = np.array([prompt.seed for prompt in prompts])
    per_seed = [float(values[groups == one].sum() / below[groups == one].sum()) for one in np.unique(groups)]
    return Metric(**{**metric.model_dump(), "per_seed": per_seed})


def beside_null(
    name: str, value: float, n: int, null: Float[np.ndarray, " draw"], *, unit: str, formula: str, how: str
) -> dict[str, Metric]:
    """A number without an interval, its null distribution (`how` it was drawn) and the difference of the two."""
    return {
        name: without_interval(value, n, unit, formula),
        f"{name}_null": null_distribution(null, unit=unit, formula=f"{formula}; {how}"),
        f"{name}_minus_null": null_distribution(value - null, unit=unit, formula=f"{formula}; minus {how}"),
    }


def role_flips(n_prompts: int, draws: int, seed: int = 0) -> Float[np.ndarray, "draw prompt"]:
    """Independent signs, +1 or -1: which of a prompt's two names counts as IO is drawn anew for each prompt.

    The data set draws the roles of the two names at random, so this is the exact permutation null for 'roles do not
    matter'.
    """
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n_prompts))
