"""Starting steps of a run: forked from one process that holds the libraries, against a new Python for each.

Instead: what Snakemake does by itself, a new interpreter for every rule. The steps only print their options, so what
is timed is the start; the server's own imports are counted.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import Row
from common.core.settings import ROOT
from common.engine.forkserver import forkserver

STEPS = (
    *("superposition.measure_uniform", "superposition.features_figures", "induction_heads.measure_heads"),
    "grokking.train",
    *("sparse_autoencoders.measure_language", "ioi_circuit.path_patching", "refusal_direction.study"),
)
ROUNDS = 4


def compare() -> Iterator[Row]:
    """One row: seven steps, each four times."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    expected, theirs = _run(plain)
    (ROOT / "results").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as folder:
        start = time.perf_counter()
        with forkserver(Path(folder).relative_to(ROOT), plain) as environment:
            found, _ = _run(environment)
        ours = time.perf_counter() - start
    same = "same output" if found == expected else "output differs"
    yield Row(f"start of {ROUNDS * len(STEPS)} steps", ours, "a new Python for each", theirs, same)


def _run(environment: dict[str, str]) -> tuple[list[bytes], float]:
    """What every step prints, and the seconds of all."""
    start = time.perf_counter()
    printed = [
        subprocess.run(
            ["/bin/sh", "-c", f"exec python -m replications.{step} --help"],
            cwd=ROOT, env=environment, capture_output=True, check=True,
        ).stdout
        for _ in range(ROUNDS)
        for step in STEPS
    ]  # fmt: skip
    return printed, time.perf_counter() - start
