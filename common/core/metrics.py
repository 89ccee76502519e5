"""The typed records that steps hand to each other: `metrics.json` and its entries.

`metrics.json` is `{metric: {value, ci_low, ci_high, n, unit, formula, per_seed, uncertainty, controls}}`. A metric with
controls is a comparison. Each control is the same quantity, in the same unit and on the same sample, where the effect
should be absent. With it comes the paired difference effect - control. `common.core.statistics` makes all of them. NaN
and infinity are rejected when a record is made and again when a file is read.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import Strict

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
TOLERANCE = 1e-6  # of difference = effect - control, relative to the larger of the two


class Estimate(Strict):
    """One number with its 95 % interval, and its value for each seed where it was measured seed by seed."""

    value: FiniteFloat
    ci_low: FiniteFloat
    ci_high: FiniteFloat
    per_seed: list[FiniteFloat] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Estimate":
        if not self.ci_low <= self.value <= self.ci_high:
            raise ValueError(f"interval [{self.ci_low}, {self.ci_high}] does not contain the value {self.value}")
        return self


class Uncertainty(Strict):
    """What the interval generalises over."""

    unit: str = Field(description="'seeds', 'documents', 'templates', 'topics', 'null draws', ...")
    count: Annotated[int, Field(ge=1)] = Field(description="how many of them there were")


class Control(Estimate):
    """The same quantity where the effect should be absent. `difference` is effect - control, paired where possible."""

    name: MetricName
    n: Annotated[int, Field(ge=1)]
    formula: str = ""
    difference: Estimate


class Metric(Estimate):
    """One measured number; with `controls`, a comparison."""

    n: Annotated[int, Field(ge=1, description="number of observations: prompts, seeds, cells or draws")]
    unit: str = Field(description="'nats', 'share', 'logits', '1' for a pure number, ...")
    formula: str = Field(description="id or short text of the formula that gave the value")
    uncertainty: Uncertainty | None = Field(
        default=None, description="null for counts and other numbers without an interval"
    )
    controls: list[Control] = Field(default_factory=list)

    @model_validator(mode="after")
    def _paired(self) -> "Metric":
        names = [control.name for control in self.controls]
        if len(set(names)) < len(names):
            raise ValueError(f"two controls have the name '{max(names, key=names.count)}'")
        for control in self.controls:
            expected = self.value - control.value
            scale = max(abs(self.value), abs(control.value), 1e-9)
            if not math.isclose(control.difference.value, expected, rel_tol=0, abs_tol=TOLERANCE * scale):
                raise ValueError(
                    f"the difference to '{control.name}' is {control.difference.value}, but effect - control is "
                    f"{expected}; measure both on the same sample"
                )
        return self

    def control(self, name: str) -> Control:
        """The control of this name. UserError naming those that there are."""
        for control in self.controls:
            if control.name == name:
                return control
        known = ", ".join(control.name for control in self.controls) or "none"
        raise UserError(f"there is no control '{name}' of '{self.formula}'; there is {known}")


class _MetricsFile(Strict):
    metrics: dict[MetricName, Metric]


def write_metrics(path: Path, metrics: Mapping[str, Metric]) -> None:
    """Writes a `metrics.json`. pydantic.ValidationError on a bad metric name."""
    checked = _MetricsFile(metrics=dict(metrics))
    write_json(path, checked.model_dump(mode="json")["metrics"])


def read_metrics(path: Path) -> dict[str, Metric]:
    """Reads a `metrics.json`. UserError naming the file and the field if it breaks the contract."""
    try:
        return _MetricsFile.model_validate({"metrics": read_json(path)}).metrics
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))
        raise UserError(f"{path} breaks the metrics contract at {place}: {first['msg']}; rerun its step") from None
