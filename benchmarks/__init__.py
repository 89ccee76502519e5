"""Side-by-side timings: our code and what a user would pick instead, on the same task, in one run.

`make bench` runs every module of this folder that has a function `compare`. Times on a shared machine vary from run to
run; the ratio within one run is what counts. A module checks that both sides give the same answer before it reports.
"""

from pathlib import Path
from typing import NamedTuple

from common.core.errors import UserError
from common.core.settings import ROOT


class Row(NamedTuple):
    """One line of the table: seconds of both sides on one task, and how their answers were compared."""

    task: str
    ours: float
    instead: str
    theirs: float
    check: str


def default_corpus() -> Path:
    """Folder of `python-docs`. UserError if no run has made it yet."""
    folder = ROOT / "resources" / "corpora" / "python-docs"
    if not (folder / "manifest.json").exists():
        raise UserError("the corpus python-docs is not there yet; run `make corpora` first")
    return folder


def default_model() -> Path:
    """Folder of the embedded language model. UserError if no run has made it yet."""
    folder = ROOT / "resources" / "models" / "smollm2-135m-instruct-q4_1"
    if not folder.exists():
        raise UserError("the default model is not there yet; run `make smoke` first")
    return folder
