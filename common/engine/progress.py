"""Shows a running workflow: one line at the start with the number of steps, then one line per finished step.

In a terminal a progress bar also names the running steps. All of it comes from the events of the run. Snakemake writes
them to a file, so it does not depend on the process that watches it.
"""

import subprocess
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.core.events import Event, Kind, Tail

POLL = 0.2


class Follower:
    """Prints the events of a run and counts its steps. Jobs of the rules in `targets` do no work and do not count."""

    def __init__(self, progress: Progress, targets: list[str], results: str) -> None:
        self.progress, self.targets, self.results = progress, targets, results
        self.task = progress.add_task("starting", total=None)
        self.done = self.total = 0
        self.running: dict[int | None, Event] = {}

    def show(self, events: list[Event]) -> None:
        """Prints what these events say."""
        for event in events:
            self._show(event)
        if events:
            names = ", ".join(event.rule for event in self.running.values())
            self.progress.update(self.task, description=names or "working")

    def _show(self, event: Event) -> None:
        if event.event == Kind.RUN_STARTED:
            self._count(event.jobs)
        elif event.rule in self.targets:
            return
        elif event.event == Kind.JOB_STARTED:
            self.running[event.jobid] = event
        elif event.event == Kind.JOB_ERROR:
            self.running.pop(event.jobid, None)
        elif event.event == Kind.JOB_FINISHED:
            self.done += 1
            start = self.running.pop(event.jobid, event).time
            shown = f"{self.done:4d}/{self.total or '?'}  {event.rule:<44} {event.time - start:7.1f} s"
            self.progress.print(shown, highlight=False)
            self.progress.update(self.task, advance=1)

    def _count(self, jobs: dict[str, int]) -> None:
        announced = self.total > 0
        self.total = sum(count for rule, count in jobs.items() if rule not in self.targets)
        if self.total and not announced:
            steps = "1 step" if self.total == 1 else f"{self.total} steps"
            self.progress.print(f"{steps} to run; results go to {self.results}/", highlight=False)
        self.progress.update(self.task, total=self.total)


def follow(process: "subprocess.Popen[bytes]", tail: Tail, targets: list[str]) -> tuple[int, list[Event]]:
    """Shows the progress of `process` until it ends; returns its exit code and its events."""
    console = Console(file=sys.stdout, soft_wrap=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    events: list[Event] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        follower = Follower(progress, targets, str(tail.path.parent))
        while True:
            code = process.poll()
            new = tail.read()
            follower.show(new)
            events += new
            if code is not None:
                return code, events
            time.sleep(POLL)
