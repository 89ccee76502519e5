"""`make status`: one line per step (replication, step, state, seconds) and the claims held, failed and not run."""

import fcntl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from common.core.errors import UserError
from common.core.events import Event
from common.core.settings import ROOT, replications
from common.core.verify import NOT_RUN, read_claims
from common.engine.config import load_run
from common.engine.launch import names
from common.engine.plan import plan
from common.publish.cost import step_cost
from common.publish.workflow_picture import owner_of


def running(results: Path) -> bool:
    """Whether a workflow holds the lock of the results folder."""
    owner = results / ".owner"
    if not owner.exists():
        return False
    with owner.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Planned(NamedTuple):
    """One rule: 'done' or 'to run', and the logs of its steps, whether they have run or not."""

    state: str
    logs: list[Path]


def planned(config: list[str]) -> dict[str, Planned]:
    """Every step of a run, as Snakemake sees it. UserError if Snakemake cannot plan the run."""
    with ThreadPoolExecutor() as pool:
        to_run, every = pool.map(lambda options: plan("all", config=config, options=options), ([], ["--forceall"]))
    return combine(to_run, every)


def combine(to_run: list[Event], every: list[Event]) -> dict[str, Planned]:
    """The rules with a log among all jobs, and whether one of their jobs is to run."""
    waiting = {job.rule for job in to_run}
    found: dict[str, Planned] = {}
    for job in every:
        if job.log:  # an aggregate rule has none
            step = found.setdefault(job.rule, Planned("to run" if job.rule in waiting else "done", []))
            step.logs.append(ROOT / job.log[0])
    return found


def state_of(logs: list[Path], plan: str, active: bool) -> tuple[str, str]:
    """State and seconds of one step, from its plan and its logs."""
    costs = [step_cost(log) for log in logs]
    if plan == "done":
        seconds = [cost["wall_s"] for cost in costs if cost]
        return "done", f"{sum(seconds):.1f}" if seconds else ""
    if None in costs:
        return ("running" if active else "failed or interrupted"), ""
    return "to run", ""


def status(scale: str = "laptop", models: str = "", hub: Annotated[bool, tyro.conf.FlagConversionOff] = False) -> None:
    """Prints the table for one scale, with the models that `make` would be given. UserError if it cannot be had."""
    models = names(models)
    load_run(scale, models=models, hub=hub)
    results = ROOT / "results" / scale
    active = running(results)
    table = Table(
        "replication", "step", "state", "seconds", title=f"Scale {scale}{' (a run is active)' if active else ''}"
    )
    config = [f"scale={scale}", *([f"models={models}"] if models else []), *(["hub=1"] if hub else [])]
    for rule, step in sorted(planned(config).items()):
        owner = owner_of(rule) or ""
        state, seconds = state_of([log for log in step.logs if log.exists()], step.state, active)
        table.add_row(owner or "–", rule.removeprefix(f"{owner}_"), state, seconds)
    claims = Table("replication", "reproduced or hold", "not as expected", "not run", title="Claims")
    for name in replications():
        path = results / name / "claims.json"
        found = read_claims(path) if path.exists() else []
        held = sum(claim.verdict in ("reproduced", "holds") for claim in found)
        failed = sum(claim.problem is not None for claim in found)
        skipped = sum(claim.verdict == NOT_RUN for claim in found)
        claims.add_row(name, *(map(str, (held, failed, skipped)) if found else ("–",) * 3))
    console = Console()
    console.print(table)
    console.print(claims)


if __name__ == "__main__":
    try:
        tyro.cli(status)
    except UserError as error:
        sys.exit(f"error: {error}")
