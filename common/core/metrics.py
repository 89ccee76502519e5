"""The typed records that steps hand to each other: `metrics.json` and its entries.

`metrics.json` is `{metric: {value, ci_low, ci_high, n, unit, formula, per_seed}}`. NaN and infinity are rejected when
a record is made and again when a file is read. `per_seed` is null for quantities that were not measured seed by seed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import Strict

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Metric(Strict):
    """One measured number with its 95 % interval."""

    value: FiniteFloat
    ci_low: FiniteFloat
    ci_high: FiniteFloat
    n: Annotated[int, Field(ge=1, description="number of independent observations: prompts, seeds, cells or draws")]
    unit: str = Field(description="'nats', 'share', 'logits', '1' for a pure number, ...")
    formula: str = Field(description="id or short text of the formula that gave the value")
    per_seed: list[FiniteFloat] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Metric":
        if not self.ci_low <= self.value <= self.ci_high:
            raise ValueError(f"interval [{self.ci_low}, {self.ci_high}] does not contain the value {self.value}")
        return self


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
