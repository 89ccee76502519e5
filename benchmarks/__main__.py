"""`make bench`: times every task and keeps the record; `make bench NAME=steering` one module of this folder.

A record of another machine or of other versions is replaced as a whole.
"""

import importlib
import os
import pkgutil
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # both are read when torch loads
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the launcher does

import benchmarks
from common.core.errors import UserError
from common.core.files import read_json, write_json, write_text
from common.core.settings import ROOT
from common.core.step import make_deterministic
from common.publish.pages import with_block
from common.publish.performance import BENCHMARKS, PAGE, benchmarks_block


def main(chosen: list[str]) -> None:
    """Times the chosen modules, or all, and prints the table."""
    every = sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__) if info.name != "__main__")
    if unknown := sorted(set(chosen) - set(every)):
        raise UserError(f"there is no benchmark '{unknown[0]}'; use {', '.join(every)}")
    path, about = ROOT / "figures" / BENCHMARKS, benchmarks.machine()
    known = read_json(path) if path.exists() else {}
    rows = known.get("rows", {}) if all(known.get(key) == value for key, value in about.items()) else {}
    for name in chosen or every:
        module = importlib.import_module(f"benchmarks.{name}")
        make_deterministic(threads=1)
        print(f"{name} ...", flush=True)
        rows[name] = [benchmarks.measured(task) for task in module.tasks()]
        write_json(path, about | {"rows": {name: rows[name] for name in every if name in rows}})
    block = benchmarks_block(read_json(path))
    write_text(PAGE, with_block(PAGE.read_text(encoding="utf-8"), "benchmarks", block))
    print(block)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
