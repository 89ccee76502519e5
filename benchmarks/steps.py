"""Starting steps of a run: forked from one process that holds the libraries, against a new Python for each.

Instead: what Snakemake does by itself, a new interpreter for every rule. The steps only print their options, so what is
timed is the start. The server's own imports are counted, and spread over seven steps (a run has over a hundred).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import Task
from common.core.settings import ROOT
from common.engine.forkserver import forkserver

STEPS = (
    *("superposition.measure_uniform", "superposition.features_figures", "induction_heads.measure_heads"),
    "grokking.train",
    *("sparse_autoencoders.measure_language", "ioi_circuit.path_patching", "refusal_direction.study"),
)


def tasks() -> Iterator[Task]:
    """One task: seven steps."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    (ROOT / "results").mkdir(exist_ok=True)

    def forked() -> list[bytes]:
        with (
            tempfile.TemporaryDirectory(dir=ROOT / "results") as folder,
            forkserver(Path(folder).relative_to(ROOT), plain) as environment,
        ):
            return printed(environment)

    yield Task(
        f"start of {len(STEPS)} steps",
        forked,
        "a new Python for each",
        lambda: printed(plain),
        lambda mine, other: "same output" if mine == other else "output differs",
    )


def printed(environment: dict[str, str]) -> list[bytes]:
    """What every step prints."""
    return [
        subprocess.run(
            ["/bin/sh", "-c", f"exec python -m replications.{step} --help"],
            cwd=ROOT, env=environment, capture_output=True, check=True,
        ).stdout
        for step in STEPS
    ]  # fmt: skip
