"""`make bench`: runs every comparison and prints one table."""

import importlib
import os
import pkgutil
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the launcher does; read when torch loads

from rich.console import Console
from rich.table import Table

import benchmarks
from common.core.errors import UserError
from common.core.step import make_deterministic


def main() -> None:
    """Prints task, seconds of both sides, and their ratio."""
    table = Table("task", "ours, s", "instead", "theirs, s", "ratio", "same answer")
    for module in sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__)):
        if module == "__main__":
            continue
        compare = importlib.import_module(f"benchmarks.{module}").compare
        make_deterministic(threads=os.cpu_count() or 1)  # both sides may use the whole machine
        print(f"{module} ...", flush=True)
        for row in compare():
            ratio = f"{row.theirs / row.ours:.1f}x"
            table.add_row(row.task, f"{row.ours:.2f}", row.instead, f"{row.theirs:.2f}", ratio, row.check)
    Console(width=140).print(table)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
