"""Small helpers of the measuring steps: metrics over seeds with their paired differences, and CSV files."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.core.files import atomic
from common.core.metrics import Metric
from common.core.statistics import over_seeds


class Seeded:
    """Collects metrics over seeds. A difference is paired seed by seed; seeds that one side lacks are left out."""

    def __init__(self) -> None:
        self.found: dict[str, Metric] = {}

    def add(self, name: str, values: list[float], unit: str, formula: str) -> None:
        """Mean and Student-t interval of one value per seed, first seed first."""
        self.found[name] = over_seeds(values, unit=unit, formula=formula)

    def minus(self, name: str, effect: str, control: str) -> None:
        """The paired difference of two metrics that were added before."""
        a, b = self.found[effect], self.found[control]
        values = [x - y for x, y in zip(a.per_seed or [], b.per_seed or [], strict=False)]
        self.add(name, values, a.unit, f"{effect} - {control}, same seed")


def write_table(
    path: Path, rows: pd.DataFrame | Sequence[object], names: list[str] | None = None, *, digits: int = 6
) -> None:
    """A CSV file of a frame, or of rows that are mappings, or lists under `names`; numbers have so many digits."""
    with atomic(path) as temporary:
        frame = pd.DataFrame(rows, columns=names)
        frame.to_csv(temporary, index=False, float_format=f"%.{digits}g", lineterminator="\n")
