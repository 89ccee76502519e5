"""Statistics over prompts: intervals, nulls with the same selection, and which heads have an effect.

Prompts of one template are not independent, so every interval resamples templates, and then the prompts of each. There
are 44, and 22 in the verification half. A bootstrap over whole templates alone is a little too narrow; the second level
makes up for it, and where templates do not differ it is too wide (a test holds the coverage in both cases).

The data set draws the roles of the two names at random, so flipping them prompt by prompt is the exact null of 'roles
do not matter'.

The best of N heads looks strong by luck when it is measured on the prompts that chose it. So heads are chosen on one
half (own templates, own names) and measured on the other, and the halves are exchanged. Nulls go through the same
choice and the same measurement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from common.core.metrics import Control, Metric, Uncertainty
from common.core.statistics import LEVEL, against_null, over_clusters, without_interval
from replications.ioi_circuit.dataset import Prompt

PerPrompt = Float[np.ndarray, " prompt"]
Draws = Float[np.ndarray, "draw prompt"]


def clustered(
    values: PerPrompt,
    prompts: list[Prompt],
    *,
    unit: str,
    formula: str,
    denominators: PerPrompt | None = None,
    controls: Mapping[str, PerPrompt | tuple[PerPrompt, PerPrompt]] | None = None,
    draws: Mapping[str, Draws] | None = None,
) -> Metric:
    """Mean of `values`, or ratio of the two means, with an interval over templates and their prompts.

    `per_seed` has one value for each seed of the prompts.

    Args:
        values: one per prompt.
        prompts: their prompts.
        unit: of the value.
        formula: id or short text of what the value is.
        denominators: one per prompt, where the value is a ratio of means.
        controls: values on the same prompts; their denominators are those of the effect, if none stand beside them.
        draws: controls that are drawn many times, as random heads: mean over the draws, central 95 % range of the
            draws, and the difference to their mean, paired by prompt.
    """
    below = np.ones_like(values) if denominators is None else denominators
    templates = np.array([row.template for row in prompts])
    listed = {name: one if isinstance(one, tuple) else (one, below) for name, one in (controls or {}).items()}
    drawn = dict(draws or {})
    metric = over_clusters(
        values,
        np.arange(len(prompts)),
        models=templates,
        few_models=False,
        unit=unit,
        formula=formula,
        denominators=below,
        groups=np.array([prompt.seed for prompt in prompts]),
        controls=listed | {name: (one.mean(0), below) for name, one in drawn.items()},
    )
    compared = [_over_draws(one, drawn[one.name], below) if one.name in drawn else one for one in metric.controls]
    resampled = Uncertainty(unit="templates", count=len(set(templates.tolist())))
    return metric.model_copy(update={"controls": compared, "uncertainty": resampled})


def _over_draws(control: Control, draws: Draws, below: PerPrompt) -> Control:
    low, high = np.quantile(draws.sum(1) / below.sum(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    reach = {"ci_low": min(float(low), control.value), "ci_high": max(float(high), control.value)}
    return control.model_copy(update=reach | {"n": len(draws), "per_seed": None})


def beside_null(
    value: float, n: int, null: Float[np.ndarray, " draw"], *, unit: str, formula: str, name: str
) -> Metric:
    """A number without an interval of its own against its null distribution."""
    return against_null(without_interval(value, n, unit, formula), null, name=name)


def role_flips(n_prompts: int, draws: int, seed: int = 0) -> Draws:
    """Independent signs, +1 or -1: which of a prompt's two names counts as IO is drawn anew for each prompt."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n_prompts))


@dataclass(frozen=True)
class SignificantEffects:
    """For each head: its values over prompts, and the rule by which its mean counts."""

    values: Float[np.ndarray, "head prompt"]
    threshold: float
    minimum: float = 0.0

    @cached_property
    def mean(self) -> Float[np.ndarray, " head"]:
        mean: np.ndarray = self.values.mean(1)
        return mean

    @cached_property
    def sign(self) -> Float[np.ndarray, " head"]:
        """Sign of the mean if it is significant, else 0."""
        passes = (np.abs(t_values(self.values)) > self.threshold) & (np.abs(self.mean) >= self.minimum)
        sign: np.ndarray = np.sign(self.mean) * passes
        return sign

    def resampled(self, seed: int) -> "SignificantEffects":
        """The same rule on prompts drawn with replacement; equal seeds draw equal prompts."""
        count = self.values.shape[1]
        index = np.random.default_rng([seed, count]).integers(0, count, count)
        return SignificantEffects(self.values[:, index], self.threshold, self.minimum)


def significant(
    values: Float[np.ndarray, "head prompt"],
    draws: int,
    minimum: float = 0.0,
    family: Float[np.ndarray, "every prompt"] | None = None,
) -> SignificantEffects:
    """Heads whose |t| exceeds that of the best head with roles flipped, and whose mean is at least `minimum`.

    `family`: values of all heads of the family, where `values` has zeros for those that were screened out.
    """
    return SignificantEffects(values, family_threshold(values if family is None else family, draws), minimum)


def family_threshold(values: Float[np.ndarray, "head prompt"], draws: int, level: float = 0.95) -> float:
    """Smallest |t| that the best of all heads exceeds by luck in at most 5 % of draws (sign flips prompt by prompt)."""
    flips = np.random.default_rng(0).choice([-1.0, 1.0], size=(draws, values.shape[1]))
    largest = [np.abs(t_values(values * flip)).max() for flip in flips]
    return float(np.quantile(largest, level))


def t_values(values: Float[np.ndarray, "head prompt"]) -> Float[np.ndarray, " head"]:
    """Mean over standard error; a floor on the error keeps heads without any effect at 0."""
    spread = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    result: np.ndarray = values.mean(1) / (spread + 1e-3 * np.abs(values).max() + 1e-12)
    return result


def chosen_on_other_half(
    effects: Float[np.ndarray, "prompt head"], half: Int[np.ndarray, " prompt"], top: int, sign: int
) -> Int[np.ndarray, "half top"]:
    """Row h: the `top` heads with the largest `sign` x mean effect on the half that is not h, strongest first."""
    means = np.stack([effects[half == 1 - side].mean(0) for side in (0, 1)])
    return np.argsort(-sign * means, axis=1, kind="stable")[:, :top]


def crossfit(
    effects: Float[np.ndarray, "prompt head"], half: Int[np.ndarray, " prompt"], top: int, sign: int
) -> PerPrompt:
    """Summed effect on each prompt of the `top` heads chosen on the other half."""
    chosen = chosen_on_other_half(effects, half, top, sign)
    total: PerPrompt = np.take_along_axis(effects, chosen[half], axis=1).sum(1)
    return total


def crossfit_null(
    effects: Float[np.ndarray, "prompt head"], half: Int[np.ndarray, " prompt"], top: int, sign: int, flips: Draws
) -> Draws:
    """`crossfit` on effects whose roles were flipped, one row per draw of `flips`."""
    return np.stack([crossfit(effects * flip[:, None], half, top, sign) for flip in flips])
