"""Timings side by side: our code and the best way that a user of the peer has, on the same task, in one process.

Every module of this folder has a function `tasks`. Both sides of a task run on one thread, in the same dtype, `RUNS`
times in turn. What counts are CPU seconds, children included, so that a busy machine counts for both alike. Models and
data are loaded for neither side. `make bench` keeps the numbers with machine and versions in `figures/benchmarks.json`;
documents quote ratios from there alone.
"""

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from common.core.errors import UserError
from common.core.settings import ROOT
from common.publish.provenance import device_name, instructions

RUNS = 3
REPORTED = ("torch", "transformer-lens", "transformers")


class Task(NamedTuple):
    """One task and both ways to do it. `check` says how their answers compare, or raises a `UserError`.

    With `report_seconds` both sides measure themselves and return (CPU seconds, answer).
    """

    task: str
    ours: Callable[[], Any]
    instead: str
    theirs: Callable[[], Any]
    check: Callable[[Any, Any], str]
    report_seconds: bool = False


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and answer of one call."""
    start = cpu_seconds()
    answer = function()
    return cpu_seconds() - start, answer


def measured(task: Task) -> dict[str, Any]:
    """One row of the record."""
    ours, theirs, said = [], [], ""
    for _ in range(RUNS):
        (seconds, mine), (other, their) = (
            side() if task.report_seconds else timed(side) for side in (task.ours, task.theirs)
        )
        ours.append(seconds)
        theirs.append(other)
        said = task.check(mine, their)
    return {
        "task": task.task,
        "instead": task.instead,
        "ours": [round(one, 3) for one in ours],
        "theirs": [round(one, 3) for one in theirs],
        "ratio": [round(b / a, 2) for a, b in zip(ours, theirs, strict=True)],
        "check": said,
    }


def machine() -> dict[str, Any]:
    """What the numbers of a record have in common."""
    return {
        "machine": f"{device_name('cpu')} ({instructions()})",
        "threads": 1,
        "runs": RUNS,
        "versions": {"Python": platform.python_version(), **{name: metadata.version(name) for name in REPORTED}},
    }


def default_model() -> Path:
    """Folder of the embedded language model. UserError if no run has made it yet."""
    folder = ROOT / "resources" / "models" / "smollm2-135m-instruct-q4_1"
    if not folder.exists():
        raise UserError("the default model is not there yet; run `make smoke` first")
    return folder
