"""Plans runs: the jobs that Snakemake would run, with their files, from the events of a dry run.

As a command (`make dag`) it draws the whole workflow into `docs/workflow.svg`, whatever has been run already.
"""

import os
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tyro

from common.core.errors import UserError
from common.core.events import EVENTS, Event, Kind, read_events
from common.core.files import write_text
from common.core.settings import ROOT
from common.engine.failure import one_line
from common.publish.workflow_picture import PICTURE, picture, rows

METADATA = Path(".snakemake", "metadata")  # one file for each output, named as `snakemake.persistence.file` does
SNAKEMAKE = [sys.executable, "-m", "common.engine.snakemake_cli", "--nolock"]


def logged_to(path: Path) -> list[str]:
    """Options with which Snakemake writes its events to a file."""
    return ["--logger", "events", "--logger-events-path", str(path)]


def made_here(output: Path) -> bool:
    """Whether Snakemake knows which sources made an output, relative to the project. It does not of a copied one, and
    then takes it for up to date."""
    return not output.exists() or (METADATA / urlsafe_b64encode(str(output).encode()).decode()).exists()


def refuse_copied(outputs: Iterable[Path], folder: Path, again: str = "run again") -> None:
    """UserError if one of these outputs was not made here: it would pass for up to date and get the seeds and sources
    of this run. What to do is to remove `folder`, and then `again`."""
    if copied := [path for path in outputs if not made_here(path)]:
        raise UserError(
            f"{copied[0]} was not made in this folder, so nobody knows by which seeds and sources; remove {folder} "
            f"and {again}"
        )


def plan(
    *targets: str,
    config: Sequence[str] = ("scale=laptop",),
    options: Sequence[str] = (),
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> list[Event]:
    """The jobs that a run of `targets` would execute now, in no particular order.

    Args:
        targets: of Snakemake; the default is what `make` makes.
        config: `key=value` pairs, as the launcher passes them.
        options: further ones of Snakemake, as `--forceall` for all jobs, finished or not.
        folder: that of the project.
        environment: of the Snakemake process; default is that of this one.

    Raises:
        UserError: Snakemake cannot plan the run.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, EVENTS)
        command = [*SNAKEMAKE, "--dry-run", *logged_to(path), "--config", *config, *options, "--", *targets]
        done = subprocess.run(
            command, cwd=folder, env={**(environment or os.environ)}, capture_output=True, text=True, check=False
        )
        events = read_events(path)
    if done.returncode:
        said = [event.message for event in events if event.exception] or [done.stderr.strip().splitlines()[-1]]
        raise UserError(f"Snakemake cannot plan the run: {one_line(said[0])}")
    return [event for event in events if event.event == Kind.JOB_PLANNED]


def whole_workflow() -> list[Event]:
    """All jobs of scale `laptop`, finished or not."""
    return plan("all", options=["--forceall"])


def draw() -> None:
    """Draws the whole workflow."""
    write_text(PICTURE, picture(rows(whole_workflow())))
    print(f"{PICTURE.relative_to(ROOT)} shows the workflow as it is now")


if __name__ == "__main__":
    try:
        tyro.cli(draw)
    except UserError as error:
        sys.exit(f"error: {error}")
