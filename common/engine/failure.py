"""Explains a failed run in one sentence, from its events and from the logs of its failed steps."""

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from common.core.errors import UserError, from_os_error
from common.core.events import Event, Kind
from common.core.settings import ROOT

NO_SPACE = 2**20  # bytes
LONGEST = 600  # characters of a message
OUR_MESSAGE = re.compile(r"((python -m [\w.]+: )?error: |[\w.]*(Error|Exception|Interrupt)\b)")  # begins a last word
NO_MEMORY = re.compile(  # the error of torch or Python with which a step ends when it is given no more memory
    r"(?P<gpu>[\w.]*Error: CUDA (error: )?out of memory|[\w.]*OutOfMemoryError)"
    r"|[\w.]*MemoryError\b|RuntimeError: .*DefaultCPUAllocator: can't allocate memory"
)
ASKED_FOR = re.compile(r"\b(?:tried to|Unable to) allocate (?P<number>\d+(?:\.\d*)?) (?P<unit>bytes|[KMGT]iB)\b", re.I)
UNWRITTEN = "MissingOutputException"  # Snakemake's name for an output that is not there when its step has ended


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """A full disk, a lack of rights and their like become a UserError."""
    try:
        yield
    except OSError as error:
        if (known := from_os_error(error)) is None:
            raise
        raise known from None


def as_command(command: Callable[[], object]) -> None:
    """Runs a command in the project's folder; every expected failure ends it with one sentence."""
    os.chdir(ROOT)
    try:
        command()
    except UserError as error:
        sys.exit(f"error: {error}")


def explain(results: Path, events: list[Event], workflow_log: Path) -> str:
    """One sentence for a failed run: what its first failed step said, or else why Snakemake stopped.

    On a full disk neither logs nor events can be written, so free space is looked at first.
    """
    if shutil.disk_usage(results).free < NO_SPACE:
        return str(from_os_error(OSError(errno.ENOSPC, "", str(results))))
    failed = [event for event in events if event.event == Kind.JOB_ERROR]
    if failed:
        said = [(event, message) for event in failed if (message := step_message(event)) is not None]
        event, message = said[0] if said else (failed[0], silent(failed[0]))
        return f"{message} (log: {', '.join(event.log) or workflow_log})"
    return f"{stopped(events, workflow_log)} (log: {workflow_log})"


def silent(event: Event) -> str:
    """The sentence for a failed step that left no message."""
    return f"step {event.rule} ended without a message; it was killed, or memory ran out"


def out_of_memory(event: Event, message: str) -> str | None:
    """The sentence for a step that ended because it got no more memory, or None for any other message."""
    if (found := NO_MEMORY.match(message)) is None:
        return None
    if found["gpu"]:
        return (
            f"step {event.rule} ran out of GPU memory{asked_for(message)}; the same command with CORES=1 leaves the "
            "GPU to one step at a time"
        )
    return (
        f"step {event.rule} ran out of memory{asked_for(message)}; the same command with CORES=1 runs one step at a "
        "time, which leaves it more"
    )


def asked_for(message: str) -> str:
    """The size that the step asked for last, in brackets, or nothing if the message does not say it."""
    if (found := ASKED_FOR.search(message)) is None:
        return ""
    size = f"{found['number'].rstrip('.')} {found['unit']}"
    if found["unit"] == "bytes":
        size = f"{int(found['number']) / 2**30:,.2f} GiB"
    return f" (it asked for {size} more)"


def stopped(events: list[Event], workflow_log: Path) -> str:
    """Why Snakemake stopped although no step failed: its first error, what ran when it was killed, or its last line."""
    for event in events:
        if event.exception == UNWRITTEN:
            return f"a step ended without writing an output that its rule in rules.smk names: {one_line(event.message)}"
        if event.exception:
            return f"the workflow stopped: {one_line(event.message)}"
    if running := unfinished(events):
        return f"the workflow was killed while {', '.join(running)} ran; `make resume` carries on"
    text = workflow_log.read_text(encoding="utf-8", errors="replace") if workflow_log.exists() else ""
    return f"the workflow stopped: {one_line(text.strip().rpartition(chr(10))[2]) or 'no message'}"


def unfinished(events: list[Event]) -> list[str]:
    """Rules of the jobs that have started and of which nothing more was heard."""
    ended = {event.jobid for event in events if event.event in (Kind.JOB_FINISHED, Kind.JOB_ERROR)}
    return [event.rule for event in events if event.event == Kind.JOB_STARTED and event.jobid not in ended]


def one_line(message: str) -> str:
    """A message on one line. Of a long one the beginning and the end are kept, which name the cause and the files."""
    words = " ".join(message.split())
    half = LONGEST // 2
    return words if len(words) <= LONGEST else f"{words[:half]} ... {words[-half:]}"


def step_message(event: Event) -> str | None:
    """What a failed step said in its log, or None if it said nothing."""
    text = "\n".join(
        path.read_text(encoding="utf-8", errors="replace") for path in map(Path, event.log) if path.exists()
    )
    said = [line for line in text.splitlines() if OUR_MESSAGE.match(line)]
    if not said:
        return None
    return out_of_memory(event, said[-1]) or said[-1].removeprefix("error: ")
