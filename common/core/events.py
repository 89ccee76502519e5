"""Events of a workflow run: what `results/<scale>/events.jsonl` holds, one JSON object a line.

`common.engine.event_logger` writes the file while Snakemake runs. It begins with the last finish of each step in
earlier runs (`keep_finished`); the events of the present run follow.
"""

import dataclasses
import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from common.core.files import write_text

EVENTS = "events.jsonl"


class Kind(StrEnum):
    """What happened. In a dry run jobs are planned and never started."""

    RUN_STARTED = "run started"
    JOB_PLANNED = "job planned"
    JOB_STARTED = "job started"
    JOB_FINISHED = "job finished"
    JOB_ERROR = "job error"
    MESSAGE = "message"
    RUN_FINISHED = "run finished"


@dataclass(frozen=True)
class Event:
    """One event. Fields that do not apply to its kind are empty and left out of the file.

    `jobs` counts the jobs of a starting run by rule. `exception` names the class of an error of the whole workflow.
    """

    event: Kind
    time: float = field(default_factory=time.time)
    rule: str = ""
    jobid: int | None = None
    wildcards: dict[str, str] = field(default_factory=dict)
    input: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    shell: str = ""
    jobs: dict[str, int] = field(default_factory=dict)
    level: str = ""
    exception: str = ""
    message: str = ""

    def line(self) -> str:
        """The event as one line of the file."""
        content = {name: value for name, value in dataclasses.asdict(self).items() if value not in ("", None, [], {})}
        return json.dumps(content, ensure_ascii=False) + "\n"

    @property
    def step(self) -> str:
        """What identifies a step over all runs: its log, or its first output where it has no log."""
        return next(iter([*self.log, *self.output]), self.rule)


def parse(text: str) -> list[Event]:
    """The events of complete lines. A line that a full disk or a kill has cut off is skipped."""
    events = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
            events.append(Event(**content | {"event": Kind(content["event"])}))
        except (json.JSONDecodeError, TypeError, KeyError, ValueError):
            continue
    return events


def read_events(path: Path) -> list[Event]:
    """All events of a file, or none if it does not exist."""
    return parse(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []


class Tail:
    """Reads events from a growing file; begins at its present end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0

    def read(self) -> list[Event]:
        """The events of all complete lines written since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as handle:
            handle.seek(self.position)
            new = handle.read()
        complete = new[: new.rfind(b"\n") + 1]
        self.position += len(complete)
        return parse(complete.decode("utf-8", errors="replace"))


def last_finished(events: list[Event]) -> list[Event]:
    """The last finish of each step, in order of time."""
    last = {event.step: event for event in events if event.event == Kind.JOB_FINISHED}
    return sorted(last.values(), key=lambda event: event.time)


def keep_finished(path: Path) -> None:
    """Prepares the file for a new run: keeps the last finish of each step, removes everything else."""
    if path.exists():
        write_text(path, "".join(event.line() for event in last_finished(read_events(path))))
