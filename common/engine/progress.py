"""What a person sees while Snakemake runs: its log file is followed and condensed to one line at the start, which says
how many steps are to run, and one per finished step.

In a terminal a progress bar names the running steps; elsewhere only the plain lines are printed. Snakemake writes to a
file and not to a pipe, so that it does not depend on the process that watches it.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

STARTED = re.compile(r"^\s+jobid: (\d+)")
RULE = re.compile(r"^(?:local)?rule (\S+):")
FINISHED = re.compile(r"^Finished jobid: (\d+) \(Rule: (\S+)\)")
COUNT = re.compile(r"^(\w+)\s+(\d+)$")  # one line of the table of planned jobs
AFFECTED = "affected files:"  # one a line follows, to the end
POLL = 0.2


class Follower:
    """Reads new lines of a growing Snakemake log and keeps count of steps."""

    def __init__(self, log: Path, progress: Progress, targets: list[str]) -> None:
        self.log, self.progress, self.targets = log, progress, targets
        self.task = progress.add_task("starting", total=None)
        self.done = self.total = self.position = 0
        self.rule = ""
        self.announced = False
        self.running: dict[str, tuple[str, float]] = {}

    def read(self) -> None:
        """Handles all complete lines written since the last call."""
        with self.log.open("rb") as handle:
            handle.seek(self.position)
            new = handle.read()
        complete = new[: new.rfind(b"\n") + 1]
        self.position += len(complete)
        for line in complete.decode("utf-8", errors="replace").splitlines():
            self.line(line)

    def line(self, line: str) -> None:
        """Handles one line of the log."""
        if (match := COUNT.match(line)) and match[1] in self.targets:
            self.total -= int(match[2])  # a target does no work
        elif match and match[1] == "total":
            self.total += int(match[2])
            if self.total > 0 and not self.announced:
                self.announced = True
                steps = "1 step" if self.total == 1 else f"{self.total} steps"
                self.progress.print(f"{steps} to run; results go to {self.log.parent}/", highlight=False)
            self.progress.update(self.task, total=self.total)
        elif match := RULE.match(line):
            self.rule = match[1]
        elif (match := STARTED.match(line)) and self.rule:
            self.running[match[1]] = (self.rule, time.perf_counter())
            self.rule = ""
        elif (match := FINISHED.match(line)) and match[2] not in self.targets:
            self.done += 1
            rule, start = self.running.pop(match[1], (match[2], time.perf_counter()))
            seconds = f"{time.perf_counter() - start:7.1f} s"
            self.progress.print(f"{self.done:4d}/{self.total or '?'}  {rule:<44} {seconds}", highlight=False)
            self.progress.update(self.task, advance=1)
        names = ", ".join(rule for rule, _ in self.running.values() if rule not in self.targets)
        self.progress.update(self.task, description=names or "working")


def follow(process: "subprocess.Popen[bytes]", log: Path, targets: list[str]) -> int:
    """Shows the progress of `process`, which writes to `log`, until it ends; returns its exit code."""
    console = Console(file=sys.stdout, soft_wrap=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        follower = Follower(log, progress, targets)
        while True:
            code = process.poll()
            follower.read()
            if code is not None:
                return code
            time.sleep(POLL)


def last_error(log: Path) -> str:
    """The message of a Snakemake run that failed before any step: what follows its last `...Error` line, with the first
    of the files that are missing."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b", line)]
    if not starts:
        return lines[-1] if lines else "no message"
    said = lines[starts[-1] :]
    missing = said.index(AFFECTED) if AFFECTED in said else None
    return " ".join(said[:4] if missing is None else [*said[:2], *said[missing : missing + 4]])


def refused_option(lines: list[str]) -> str | None:
    """What the box says in which a step refuses its options: the first that it does not take, or that it misses."""
    text = " ".join(line.strip("│ ") for line in lines)
    for pattern, what in (
        (r"Unrecognized options: +(--[\w.-]+)", "does not take"),
        (r"Missing from .+?: +(--[\w.-]+)", "is not given"),
    ):
        if found := re.search(pattern, text):
            return f"{what} {found[1]}"
    return None


def unwritten(log: Path) -> tuple[str, str] | None:
    """Rule and first output of a step that ended well but did not write what its rule says."""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.search(
        r"^MissingOutputException in rule (\w+).*?\n.*output files are missing.*\n(\S+)", text, re.MULTILINE
    )
    return (found[1], found[2]) if found else None
