"""Snakemake logger plugin `events`: writes each event of a run as one JSON line (`common.core.events`).

Snakemake calls the handler from one thread, in the order in which things happen. Its own text goes to
`results/<scale>/workflow.log` for a person to read; a program shows at most its last line, where Snakemake
failed without an event.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from common.core.events import EVENTS, Event, Kind

TOTAL = "total"  # Snakemake's name for the sum in its table of jobs


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of the plugin, as `--logger-events-path`."""

    path: Path = field(default=Path(EVENTS), metadata={"help": "file to append events to"})


class LogHandler(LogHandlerBase):
    """Appends events to a file. An event that cannot be written is lost, and the run goes on."""

    writes_to_stream = False
    writes_to_file = True
    has_filter = True  # none: quiet runs have events, too
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        assert isinstance(self.settings, LogHandlerSettings)
        self.baseFilename = str(self.settings.path)
        self.jobs: dict[int, dict[str, Any]] = {}
        self.ended = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the event that a log record stands for, if it stands for one."""
        if (event := self.event_of(record)) is not None:
            self.write(event)

    def close(self) -> None:
        """Ends the record of a run."""
        if not self.ended:
            self.ended = True
            self.write(Event(Kind.RUN_FINISHED))
        super().close()

    def write(self, event: Event) -> None:
        """Appends one line."""
        try:
            with open(self.baseFilename, "a", encoding="utf-8") as handle:
                handle.write(event.line())
        except OSError:  # a full disk stops steps, which say so
            return

    def event_of(self, record: logging.LogRecord) -> Event | None:
        """The event of a log record, or None for records that carry no event of ours."""
        said = record.__dict__
        match said.get("event"):
            case LogEvent.RUN_INFO:
                counts = {rule: count for rule, count in said["stats"].items() if rule != TOTAL}
                return Event(Kind.RUN_STARTED, jobs=counts)
            case LogEvent.JOB_INFO:
                self.jobs[said["jobid"]] = _job(said)
                return Event(
                    Kind.JOB_PLANNED if self.common_settings.dryrun else Kind.JOB_STARTED, **self.jobs[said["jobid"]]
                )
            case LogEvent.JOB_FINISHED:
                started = self.jobs.get(said["job_id"], {"jobid": said["job_id"]})
                return Event(Kind.JOB_FINISHED, **{**started, "input": [], "shell": ""})  # they stand at its start
            case LogEvent.JOB_ERROR:
                return Event(Kind.JOB_ERROR, **_job(said))
            case LogEvent.ERROR:
                return _message(record, said["exception"])
            case None if record.levelno >= logging.WARNING:
                return _message(record)
        return None


def _job(said: dict[str, Any]) -> dict[str, Any]:
    return {
        "rule": said["rule_name"],
        "jobid": said["jobid"],
        "wildcards": {name: str(value) for name, value in said.get("wildcards", {}).items()},
        **{kind: [str(path) for path in said[kind]] for kind in ("input", "output", "log")},
        "shell": said["shellcmd"] or "",
    }


def _message(record: logging.LogRecord, exception: str = "") -> Event:
    return Event(Kind.MESSAGE, level=record.levelname.lower(), exception=exception, message=record.getMessage())
