"""Verdicts: where a metric must lie, and what is said of a landmark or a check (see docs/claims.md).

A landmark faces every control that its metric carries, and the verdict takes the worst of them:
- `reproduced`: the whole interval and every seed pass. Every control fails with its whole interval, and every paired
  difference excludes 0 on the right side.
- `same direction`: all but the bound. The value lies at least half of the way from the strongest control to the bound,
  the whole interval on the right side of `neutral`.
- `not reproduced`: everything else.

A check `holds` or `fails`.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import FiniteFloat, model_validator

from common.core.errors import UserError
from common.core.metrics import Control, Estimate, Metric
from common.core.settings import Strict

Outcome = Literal["reproduced", "same direction", "not reproduced"]
Verdict = Literal["reproduced", "same direction", "not reproduced", "holds", "fails", "not run here"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)  # best first
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
HALF_WAY = 0.5
LEAST_SEEDS, LEAST_CLUSTERS = 5, 20


class Assertion(Strict):
    """Where the metric must lie. Thresholds are numbers written down before the run; at least one bound is given."""

    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "Assertion":
        if self.at_least is None and self.at_most is None:
            raise ValueError("an assertion needs at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least >= self.at_most:
            raise ValueError("at_least must be below at_most")
        return self

    @property
    def low(self) -> float:
        return -math.inf if self.at_least is None else self.at_least

    @property
    def high(self) -> float:
        return math.inf if self.at_most is None else self.at_most

    def holds(self, value: float) -> bool:
        """Whether one number passes."""
        return self.low <= value <= self.high

    def passes(self, metric: Estimate) -> bool:
        """Whether the whole interval and every seed pass."""
        return all(map(self.holds, [metric.ci_low, metric.ci_high, *(metric.per_seed or [])]))

    def fails(self, metric: Estimate) -> bool:
        """Whether the whole interval lies outside, on one side."""
        return metric.ci_high < self.low or metric.ci_low > self.high

    def beats(self, control: Control) -> bool:
        """Whether effect - control excludes 0 and points from a failing control towards the passing side."""
        return control.difference.ci_low > 0 if control.ci_high < self.low else control.difference.ci_high < 0

    def margin(self, value: float) -> float:
        """How far a number lies from the passing side; on it below 0, by the way to the nearest bound."""
        return max(self.low - value, value - self.high)

    def distance(self, value: float) -> float:
        """How far a number lies from the passing side; 0 on it."""
        return max(self.margin(value), 0.0)

    def progress(self, value: float, control: float) -> float:
        """The share of the way from a failing control to the bound that a value has come; 1 on the passing side."""
        return 1 - self.distance(value) / self.distance(control)

    def beyond(self, neutral: float, value: float) -> bool:
        """Whether a value lies on the passing side's side of `neutral`; true where `neutral` itself passes."""
        if neutral <= self.low:
            return value > neutral
        return value < neutral if neutral >= self.high else True

    def __str__(self) -> str:
        if self.at_least is None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_most is None else f"in [{self.at_least:g}, {self.at_most:g}]"


def strongest_control(assertion: Assertion, controls: Sequence[Control]) -> Control:
    """The control whose value lies nearest to the passing side; of several on it, the one farthest beyond the bound."""
    return min(controls, key=lambda control: assertion.margin(control.value))


def judge_landmark(assertion: Assertion, neutral: float, effect: Metric) -> tuple[Outcome, str]:
    """The verdict on a landmark and one sentence of reason, which names the control that decided."""
    for control in sorted(effect.controls, key=lambda control: assertion.margin(control.value)):
        if not assertion.fails(control):
            return "not reproduced", f"the control {shown(control)} is not wholly outside {assertion}"
        if not assertion.beats(control):
            difference = f"[{control.difference.ci_low:.3g}, {control.difference.ci_high:.3g}]"
            return "not reproduced", f"effect - {control.name} {difference} does not exclude 0 on the right side"
    strongest = strongest_control(assertion, effect.controls)
    fails = f"the strongest control {shown(strongest)} fails it"
    if assertion.passes(effect):
        return "reproduced", f"interval{' and every seed' if effect.per_seed else ''} {assertion}; {fails}"
    if not all(assertion.beyond(neutral, end) for end in (effect.ci_low, effect.ci_high)):
        interval = f"[{effect.ci_low:.3g}, {effect.ci_high:.3g}]"
        return "not reproduced", f"the interval {interval} is not wholly on the right side of the neutral {neutral:g}"
    progress = assertion.progress(effect.value, strongest.value)
    if progress < HALF_WAY:
        way = f"{max(progress, 0):.0%} of the way from the control {shown(strongest)} to {assertion}"
        return "not reproduced", f"the value {effect.value:.3g} has come only {way}"
    return "same direction", f"{_missed(assertion, effect)} {assertion}; {fails}"


def judge_check(assertion: Assertion, effect: Metric, controls: Sequence[Control]) -> tuple[Verdict, str]:
    """`holds` if the whole interval and every seed pass, and every listed control fails; else `fails`. With reason."""
    for control in controls:
        if not assertion.fails(control):
            return "fails", f"the control {shown(control)} is not wholly outside {assertion}"
    if not assertion.passes(effect):
        return "fails", f"{_missed(assertion, effect)} {assertion}"
    return "holds", f"interval{' and every seed' if effect.per_seed else ''} {assertion}"


def _missed(assertion: Assertion, effect: Metric) -> str:
    seeds = effect.per_seed or []
    missed = sum(not assertion.holds(value) for value in seeds)
    interval = f"interval [{effect.ci_low:.3g}, {effect.ci_high:.3g}] misses"
    return f"{missed} of {len(seeds)} seeds miss" if missed else interval


def shown(control: Control) -> str:
    """`untrained 0.2 [0.1, 0.3]`."""
    return f"{control.name} {control.value:.3g} [{control.ci_low:.3g}, {control.ci_high:.3g}]"


def require_evidence(claim: str, effect: Metric, controls: Sequence[str], *, few_seeds: bool = False) -> None:
    """Asserts that the metric of a landmark carries every listed control and no other, intervals of nonzero width, and
    enough units of uncertainty. With `few_seeds` (fresh runs) fewer will do. UserError otherwise.
    """
    measured = [control.name for control in effect.controls]
    if foreign := [name for name in controls if name not in measured]:
        raise UserError(
            f"claim {claim} lists the control '{foreign[0]}', which was not measured with its effect (there is "
            f"{', '.join(measured) or 'none'}): a control shares metric, unit and sample with the effect"
        )
    if left_out := [name for name in measured if name not in controls]:
        raise UserError(f"claim {claim} leaves out the control '{left_out[0]}' that was measured; list every control")
    _require_width(claim, "its effect", effect)
    for control in effect.controls:
        _require_width(claim, f"the difference to '{control.name}'", control.difference)
        if control.per_seed is None:  # over seeds, a control may give the same value each time, as an accuracy of 0
            _require_width(claim, f"its control '{control.name}'", control)
    if effect.uncertainty is None:
        raise UserError(
            f"claim {claim} has no unit of uncertainty: measure it over seeds or clusters, or make it a check"
        )
    unit, count = effect.uncertainty.unit, effect.uncertainty.count
    least = LEAST_SEEDS if unit == "seeds" else LEAST_CLUSTERS
    if count < least and not few_seeds:
        raise UserError(
            f"claim {claim} generalises over {count} {unit}, but a landmark needs at least {least}; measure more "
            "or make it a check"
        )


def _require_width(claim: str, what: str, estimate: Estimate) -> None:
    if math.isclose(estimate.ci_low, estimate.ci_high, rel_tol=1e-9):
        raise UserError(
            f"claim {claim} has an interval of width 0 for {what} ({estimate.value:g}): give its real uncertainty or "
            "make the claim a check"
        )
