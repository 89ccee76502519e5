"""Claims: what a paper says, what we measured, and whether it holds against every control (see docs/claims.md).

`claims.yaml` is written before the run and has three kinds of entry. A landmark is one published result with its
counterpart in the paper. A check is a premise that must hold. A planned claim waits for a hub or a GPU. How verdicts
come about is in `common.core.verdicts`, how definitions are sealed in `common.core.seals`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from common.core.files import read_yaml
from common.core.metrics import Estimate, MetricName, Uncertainty
from common.core.settings import ROOT, Scale, Strict, checked
from common.core.verdicts import (
    OUTCOMES,
    Assertion,
    Outcome,
    Verdict,
)

Role = Literal["required", "reported"]
Tier = Literal["landmark", "check", "planned"]
MOST_LANDMARKS, MOST_HEADLINES = 12, 4  # of one replication
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, Field(min_length=5)]
Controls = Annotated[list[MetricName], Field(json_schema_extra={"uniqueItems": True})]


class _Entry(Strict):
    id: Identifier
    statement: Annotated[str, Field(min_length=20)]
    source: Text


class _Judged(_Entry):
    paper_value: str | None
    models: Annotated[list[str], Field(min_length=1)]
    part: str
    metric: MetricName
    assertion: Assertion
    scales: Annotated[list[Scale], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct_controls(self) -> "_Judged":
        names: list[str] = getattr(self, "controls", [])
        if len(set(names)) < len(names):
            raise ValueError(f"the control '{max(names, key=names.count)}' is listed twice")
        return self


class Bound(Strict):
    """The sentence and bound of a landmark at one scale."""

    statement: Annotated[str, Field(min_length=20)]
    assertion: Assertion


class Landmark(_Judged):
    """One published result that a reader would name, against every control that was measured with it."""

    tier: Literal["landmark"]
    headline: bool = Field(default=False, description="shown on the front page; at most 4 a replication")
    counterpart: Text = Field(description="the paper's figure, table or number: 'Figure 2b'")
    neutral: FiniteFloat = Field(description="the value of no effect: 1 for a ratio, 0.5 for an AUROC")
    controls: Annotated[Controls, Field(min_length=1)] = Field(description="every control that the metric carries")
    role: Role = "reported"
    expected_verdict: Outcome | dict[Scale, Outcome] | None = Field(
        description="null until the claim has been scored; from then on another verdict fails the run; scale by scale "
        "where scales differ: {laptop: not reproduced, full: reproduced}"
    )
    tolerated_verdicts: Annotated[list[Outcome], Field(max_length=1)] = Field(
        default_factory=list, description="for reported claims at a bound: the neighbour of the expected verdict"
    )
    bounds: dict[Scale, Bound] = Field(
        default_factory=dict, description="of scales whose larger models or samples were calibrated to another bound"
    )
    precondition: Identifier | None = Field(
        default=None, description="a check; where it fails, the verdict is 'not run here'"
    )
    settings: list[str] | None = Field(
        default=None, description="blocks of config.yaml that are sealed; null for all of them"
    )

    @model_validator(mode="after")
    def _tolerant(self) -> "Landmark":
        if self.expected_verdict is None and (self.role == "required" or self.tolerated_verdicts):
            raise ValueError("before its first scoring a claim is reported and tolerates nothing; say what it expects")
        several = self.expected_verdict if isinstance(self.expected_verdict, dict) else {"": self.expected_verdict}
        for field, named in {"expected_verdict": filter(None, several), "bounds": self.bounds}.items():
            if unknown := sorted(set(named) - set(self.scales)):
                raise ValueError(f"{field} names the scale {unknown[0]}, which 'scales' does not list")
        for verdict in self.tolerated_verdicts:
            if self.role == "required":
                raise ValueError("tolerated_verdicts is for reported claims; a required one must be reproduced")
            for expected in filter(None, several.values()):
                if abs(OUTCOMES.index(verdict) - OUTCOMES.index(expected)) != 1:
                    raise ValueError(
                        f"'{verdict}' is no neighbour of the expected verdict '{expected}', so it cannot be tolerated"
                    )
        return self

    def at(self, scale: str) -> "Landmark":
        """The same landmark with its bound at one scale and what is expected there: nothing if it was never scored."""
        found: dict[str, Any] = {}
        if scale in self.bounds:
            found |= dict(self.bounds[scale])
        if isinstance(self.expected_verdict, dict):
            found["expected_verdict"] = self.expected_verdict.get(scale)  # type: ignore[call-overload]
            found["tolerated_verdicts"] = self.tolerated_verdicts if found["expected_verdict"] else []
        return self.model_copy(update=found)


class Check(_Judged):
    """A premise, planted truth, or agreement of two methods: it must hold, or the run fails."""

    tier: Literal["check"]
    counterpart: str | None = None
    controls: Controls = Field(default_factory=list, description="controls that must fail the assertion")
    known_failures: dict[Scale, Text] = Field(
        default_factory=dict,
        description="why it was found to fail at a scale; shown as failing, and holding there fails the run",
    )

    @model_validator(mode="after")
    def _known_scales(self) -> "Check":
        if unknown := sorted(scale for scale in self.known_failures if scale not in self.scales):
            raise ValueError(f"known_failures names the scale {unknown[0]}, which 'scales' does not list")
        return self


class Planned(_Entry):
    """A claim that needs a hub or a GPU which no run has had. It has no verdict and is never counted."""

    tier: Literal["planned"]
    counterpart: Text
    paper_value: str | None = None
    models: list[str] = Field(default_factory=list, description="hub models that HUB=1 brings here")
    needs: Text = Field(description="'gemma-2-2b from a hub and 40 GB of GPU memory'")


Definition = Landmark | Check


class ClaimsFile(Strict):
    """The content of a `claims.yaml`."""

    claims: Annotated[list[Annotated[Landmark | Check | Planned, Field(discriminator="tier")]], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "ClaimsFile":
        names = [claim.id for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"duplicate claim id {max(names, key=names.count)!r}")
        landmarks = [claim for claim in self.claims if isinstance(claim, Landmark)]
        if len(landmarks) > MOST_LANDMARKS:
            raise ValueError(f"{len(landmarks)} landmarks, but a replication has at most {MOST_LANDMARKS}")
        if (headlines := sum(claim.headline for claim in landmarks)) > MOST_HEADLINES:
            raise ValueError(f"{headlines} headline claims, but a replication has at most {MOST_HEADLINES}")
        checks = {claim.id for claim in self.claims if isinstance(claim, Check)}
        for claim in landmarks:
            if claim.precondition and claim.precondition not in checks:
                raise ValueError(f"the precondition '{claim.precondition}' of '{claim.id}' is not the id of a check")
        return self


class Sealed(Strict):
    """When and on which calibration seeds a landmark was sealed."""

    date: str
    hash: str
    seeds: list[int]


class Amendment(Strict):
    """One change of a sealed landmark, recorded by the tool; `why` is given with `make amend`."""

    date: str = Field(description="of recording")
    field: str
    before: Any
    after: Any
    why: str | None = None


class ControlResult(Strict):
    """What one control gave; numbers are null where it was not measured. `difference` is effect - control."""

    name: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    fails: bool | None = None
    difference: Estimate | None = None


class Claim(Strict):
    """One entry of `claims.json`: a claim on one model with its verdict. A planned one has no verdict."""

    id: str
    replication: str
    tier: Tier
    headline: bool = False
    statement: str
    counterpart: str | None
    source: str
    paper_value: str | None
    needs: str | None = None
    model: str
    part: str | None = None
    metric: str | None = None
    unit: str | None = None
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    uncertainty: Uncertainty | None = None
    per_seed: list[float] | None = None
    assertion: str | None = None
    neutral: float | None = None
    controls: list[ControlResult] = Field(default_factory=list)
    strongest_control: str | None = None
    sealed: Sealed | None = None
    amended: list[Amendment] = Field(default_factory=list)
    role: Role | None = Field(default=None, description="as written; of landmarks alone")
    effective_role: Role | None = Field(default=None, description="reported without a seal, or once amended")
    expected_verdict: Verdict | None = None
    tolerated_verdicts: list[Verdict] = Field(default_factory=list)
    verdict: Verdict | None
    reason: str

    @property
    def problem(self) -> str | None:
        """Why this claim must fail the run, or None."""
        where = f"{self.id} on {self.model}"
        if self.verdict == "not run here":
            return None
        if self.verdict == "fails" != self.expected_verdict:
            return f"{where}: the check fails ({self.reason})"
        if self.effective_role == "required" and self.verdict != "reproduced":
            return f"{where}: required, but {self.verdict} ({self.reason})"
        if self.expected_verdict and self.verdict not in (self.expected_verdict, *self.tolerated_verdicts):
            return f"{where}: verdict is '{self.verdict}', expected '{self.expected_verdict}' ({self.reason})"
        return None


def load_claims_file(replication: str) -> ClaimsFile:
    """The checked `claims.yaml` of one replication. UserError naming file and field."""
    path = ROOT / "replications" / replication / "claims.yaml"
    return checked(ClaimsFile, read_yaml(path), path)


def load_claims(replication: str) -> list[Definition]:
    """The landmarks and checks of one replication, in the order of its file."""
    return [claim for claim in load_claims_file(replication).claims if isinstance(claim, Definition)]


def load_planned(replication: str) -> list[Planned]:
    """The planned claims of one replication."""
    return [claim for claim in load_claims_file(replication).claims if isinstance(claim, Planned)]
