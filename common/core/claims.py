"""Claims: what a paper says, what we measured, and whether it holds against a control (see docs/claims.md).

`claims.yaml` is written before the run. A claim names a metric, an assertion with literal thresholds, and a control:
the same measurement where the effect must be absent, together with the paired difference of the two.

Verdicts. `reproduced`: the whole interval of the metric (and every seed) lies on the passing side, the whole interval
of the control on the failing side, and the interval of their difference excludes 0 with the right sign. `same
direction`: as above, but the metric misses the frozen threshold. `not reproduced`: anything else. `not run here`: the
scale or the model is not part of this run, or what the claim is about was not there to be measured (`needs`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, FiniteFloat, model_validator

from common.core.errors import UserError
from common.core.files import read_yaml
from common.core.metrics import Metric, MetricName
from common.core.settings import ROOT, Scale, Seeds, Strict, checked

Verdict = Literal["reproduced", "same direction", "not reproduced", "not run here"]
Outcome = Literal["reproduced", "same direction", "not reproduced"]
Role = Literal["required", "reported"]
UNCALIBRATED = "not calibrated, or changed after scoring: see the page of the replication"


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
        return float("-inf") if self.at_least is None else self.at_least

    @property
    def high(self) -> float:
        return float("inf") if self.at_most is None else self.at_most

    def holds(self, value: float) -> bool:
        """Whether one number passes."""
        return self.low <= value <= self.high

    def passes(self, metric: Metric) -> bool:
        """Whether the whole interval and every seed pass."""
        return all(map(self.holds, [metric.ci_low, metric.ci_high, *(metric.per_seed or [])]))

    def fails(self, metric: Metric) -> bool:
        """Whether the whole interval lies outside, on one side."""
        return metric.ci_high < self.low or metric.ci_low > self.high

    def right_sign(self, difference: Metric, control: Metric) -> bool:
        """Whether effect minus control excludes 0 and points from the failing control towards the passing side."""
        return difference.ci_low > 0 if control.ci_high < self.low else difference.ci_high < 0

    def same_sign(self, effect: Metric) -> bool:
        """Whether the effect has the sign that the source gives it: that of the bounds, where they have one."""
        if self.low >= 0:
            return effect.value > 0
        return effect.value < 0 if self.high < 0 else True

    def __str__(self) -> str:
        if self.at_least is None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_most is None else f"in [{self.at_least:g}, {self.at_most:g}]"


class Need(Assertion):
    """A condition without which a reported claim means nothing: bounds of another metric of the same part."""

    metric: MetricName

    def unmet(self, metric: Metric) -> str | None:
        """Why the claim is not judged: the value, or one of the seeds, lies outside the bounds; else None."""
        missed = [value for value in (metric.value, *(metric.per_seed or [])) if not self.holds(value)]
        where = "it is" if missed[:1] == [metric.value] else "of one seed it is"
        return f"needs {self.metric} {self}; {where} {missed[0]:.6g}" if missed else None


class ControlDefinition(Strict):
    """The same measurement where the effect must be absent."""

    name: Annotated[str, Field(min_length=3)]
    metric: MetricName
    difference: MetricName = Field(description="metric that holds effect minus control, paired where possible")


class Calibration(Strict):
    """When and on which seeds the threshold was frozen; these seeds are never scored."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    seeds: Seeds

    def __str__(self) -> str:
        return f"{self.date}, seeds {', '.join(map(str, self.seeds))}"


class ClaimDefinition(Strict):
    """One entry of `claims.yaml`."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    statement: Annotated[str, Field(min_length=20)]
    source: Annotated[str, Field(min_length=5)]
    paper_value: str | None
    models: Annotated[list[str], Field(min_length=1)]
    part: str
    metric: MetricName
    assertion: Assertion
    control: ControlDefinition
    needs: Need | None = Field(
        default=None,
        description="for reported claims: where another metric must lie, else `not run here`",
    )
    role: Role
    scales: Annotated[list[Scale], Field(min_length=1)]
    expected_verdict: Outcome
    also_seen: list[Outcome] = Field(
        default_factory=list,
        description="verdicts that the same seeds gave on other types of processor; for reported claims at a bound",
    )
    frozen_at: Calibration | None = Field(
        description="null for bounds that were not calibrated (published values, 0, round numbers set beforehand) or "
        "were changed after scoring; the page of the replication says which"
    )

    @model_validator(mode="after")
    def _certain(self) -> "ClaimDefinition":
        if self.also_seen and (self.role == "required" or self.expected_verdict in self.also_seen):
            raise ValueError("also_seen is for reported claims, and holds other verdicts than the expected one")
        if self.needs and self.role == "required":
            raise ValueError("needs is for reported claims: a required one may not be left out by a condition")
        if self.needs and self.needs.metric in (self.metric, self.control.metric, self.control.difference):
            raise ValueError("needs names another metric than those by which the claim is judged")
        return self


class ClaimsFile(Strict):
    """The content of a `claims.yaml`."""

    claims: Annotated[list[ClaimDefinition], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> "ClaimsFile":
        names = [claim.id for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"duplicate claim id {max(names, key=names.count)!r}")
        return self


class ControlResult(Strict):
    """What the control gave. `difference` is effect minus control."""

    name: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    fails_assertion: bool | None = None
    difference: Metric | None = None


class Claim(Strict):
    """One entry of `claims.json`: a claim on one model, with its verdict."""

    id: str
    replication: str
    statement: str
    source: str
    model: str
    part: str
    metric: str
    unit: str | None = None
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    n_seeds: int | None = None
    per_seed: list[float] | None = None
    paper_value: str | None
    assertion: str
    role: Role
    expected_verdict: Verdict
    also_seen: list[Verdict] = Field(default_factory=list)
    control: ControlResult
    verdict: Verdict
    reason: str
    frozen_at: str

    @property
    def problem(self) -> str | None:
        """Why this claim must fail the run, or None."""
        if self.verdict == "not run here":
            return None
        where = f"{self.id} on {self.model}"
        if self.verdict not in (self.expected_verdict, *self.also_seen):
            return f"{where}: verdict is '{self.verdict}', expected '{self.expected_verdict}' ({self.reason})"
        if self.role == "required" and self.verdict != "reproduced":
            return f"{where}: required, but {self.verdict} ({self.reason})"
        return None


def load_claims(replication: str) -> list[ClaimDefinition]:
    """The checked claims of one replication. UserError naming file and field."""
    path = ROOT / "replications" / replication / "claims.yaml"
    return checked(ClaimsFile, read_yaml(path), path).claims


def evaluate(replication: str, definition: ClaimDefinition, model: str, metrics: Mapping[str, Metric] | str) -> Claim:
    """The verdict on one claim. `metrics` is the content of its part, or the reason why it was not run.

    A metric that the claim names but the part lacks is a UserError: a typing slip must not look like a skip.
    """
    common: dict[str, Any] = {
        "id": f"{replication}.{definition.id}",
        "replication": replication,
        "model": model,
        "assertion": str(definition.assertion),
        "frozen_at": str(definition.frozen_at or UNCALIBRATED),
        **definition.model_dump(
            include={"statement", "source", "part", "metric", "paper_value", "role", "expected_verdict", "also_seen"}
        ),
    }
    if isinstance(metrics, str):
        absent = ControlResult(name=definition.control.name)
        return Claim(**common, control=absent, verdict="not run here", reason=metrics)
    names = [definition.metric, definition.control.metric, definition.control.difference]
    for name in names + ([definition.needs.metric] if definition.needs else []):
        if name not in metrics:
            raise UserError(
                f"claim {replication}.{definition.id} names the metric '{name}', which part '{definition.part}' lacks; "
                f"correct replications/{replication}/claims.yaml or the step that measures it"
            )
    if definition.needs and (reason := definition.needs.unmet(metrics[definition.needs.metric])):
        return evaluate(replication, definition, model, reason)
    effect, control, difference = (metrics[name] for name in names)
    verdict, reason = _judge(definition.assertion, effect, control, difference)
    return Claim(
        **common,
        **effect.model_dump(include={"value", "ci_low", "ci_high", "n", "unit", "per_seed"}),
        n_seeds=len(effect.per_seed) if effect.per_seed else None,
        control=ControlResult(
            name=definition.control.name,
            **control.model_dump(include={"value", "ci_low", "ci_high", "n"}),
            fails_assertion=definition.assertion.fails(control),
            difference=difference,
        ),
        verdict=verdict,
        reason=reason,
    )


def _judge(assertion: Assertion, effect: Metric, control: Metric, difference: Metric) -> tuple[Verdict, str]:
    def shown(metric: Metric) -> str:
        return f"[{metric.ci_low:.3g}, {metric.ci_high:.3g}]"

    if not assertion.fails(control):
        return "not reproduced", f"the control's interval {shown(control)} is not wholly outside {assertion}"
    if not assertion.right_sign(difference, control):
        return "not reproduced", f"effect minus control {shown(difference)} does not exclude 0 with the right sign"
    if assertion.passes(effect):
        return "reproduced", f"interval{' and every seed' if effect.per_seed else ''} {assertion}; the control fails it"
    if not assertion.same_sign(effect):
        return "not reproduced", f"the value {effect.value:.3g} has the opposite sign of {assertion}"
    seeds = effect.per_seed or []
    missed = sum(not assertion.holds(value) for value in seeds)
    what = f"{missed} of {len(seeds)} seeds miss" if missed else f"interval {shown(effect)} misses"
    return "same direction", f"{what} {assertion}; the control fails it"


def verdicts() -> tuple[str, ...]:
    """All verdicts, best first."""
    return get_args(Verdict)
