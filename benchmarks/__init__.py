"""Side-by-side timings: our code and what a user would pick instead, on the same task, in one run.

`make bench` runs every module of this folder that has a function `compare`. Times on a shared machine vary from run to
run; the ratio within one run is what counts. A module checks that both sides give the same answer before it reports.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table: seconds of both sides on one task, and how their answers were compared."""

    task: str
    ours: float
    instead: str
    theirs: float
    check: str
