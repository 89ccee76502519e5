"""CSV files of the measuring steps."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.core.files import atomic


def write_table(
    path: Path, rows: pd.DataFrame | Sequence[object], names: list[str] | None = None, *, digits: int = 6
) -> None:
    """A CSV file of a frame, or of rows that are mappings, or lists under `names`; numbers have so many digits."""
    with atomic(path) as temporary:
        frame = pd.DataFrame(rows, columns=names)
        frame.to_csv(temporary, index=False, float_format=f"%.{digits}g", lineterminator="\n")
