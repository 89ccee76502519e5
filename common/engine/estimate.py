"""`make estimate`: what a whole run of a scale takes, by replication, as far as a run of it is known.

The steps are those of a plan of the whole workflow. What they took is read from the results of that scale if all steps
of a replication are finished there. Otherwise its record says it, or the profile. Nothing is guessed: what has never
run at this scale is not known.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from common.core.events import Event
from common.core.files import read_json
from common.core.settings import ROOT, replications
from common.engine.config import load_run
from common.engine.failure import as_command
from common.engine.plan import plan
from common.engine.profile import name_of
from common.publish.cost import costs
from common.publish.gpu_card import GPU
from common.publish.pages import FOLDER
from common.publish.performance import PROFILE
from common.publish.texts import RECORDS
from common.publish.workflow_picture import owner_of

SHARED = "shared steps"  # those of no replication: models, corpora, paper
NOT_KNOWN = "not known"
HEADER = ("replication", "steps", "CPU, min", "RAM, GB", "GPU, GB", "known from")
FOOT = "RAM and GPU: memory of the largest step. Time by the clock: at least CPU minutes over the number of cores."
Cost = dict[str, float]


class Estimate(NamedTuple):
    """How many steps are planned, what they took when they ran last, where that is written, and the machine."""

    steps: int
    cost: Cost | None = None
    source: str = ""
    machine: str = ""


def estimates(scale: str, jobs: Iterable[Event], results: Path, folder: Path) -> dict[str, Estimate]:
    """The estimate of each replication, and of the steps that serve all.

    Args:
        scale: of the planned run.
        jobs: all jobs of that run.
        results: the folder of its results, which may be missing.
        folder: with the records and the profile.
    """
    planned: dict[str, list[str]] = {}
    for job in jobs:
        if job.log:  # an aggregate rule has none
            planned.setdefault(owner_of(job.rule) or SHARED, []).append(name_of(job.log[0], results))
    ran: dict[str, Cost] = costs(results)["steps"] if (results / "logs").is_dir() else {}
    records = _records(scale, folder)
    profile: dict[str, Any] = read_json(folder / PROFILE) if (folder / PROFILE).exists() else {"scale": None}
    profiled = _by_owner(profile["steps"]) if profile["scale"] == scale else {}
    broken = {_owner(step) for step in profile.get("missing", [])}
    found = {}
    for name in sorted(planned, key=[*replications(), SHARED].index):
        steps = planned[name]
        if set(steps) <= set(ran):
            found[name] = Estimate(len(steps), _total([ran[step] for step in steps]), "results")
        elif name in records:
            cost, device = (records[name][key] for key in ("cost", "device"))
            found[name] = Estimate(len(steps), _total([cost]), "record", device)
        elif name in profiled and name not in broken:
            found[name] = Estimate(len(steps), _total(profiled[name]), "profile", profile["machine"])
        else:
            found[name] = Estimate(len(steps))
    return found


def _records(scale: str, folder: Path) -> dict[str, Any]:
    """The records of runs of this scale, on the CPU or on a GPU; seeds of a calibration take as long as others."""
    paths = [path for path in (folder / RECORDS, folder / GPU / RECORDS) if path.exists()]
    entries = [entry for path in paths for entry in read_json(path).items()]
    return {name: one for name, one in entries if one["scale"].split("-")[0] == scale}


def _owner(step: str) -> str:
    """The replication of a step, from its name in a profile."""
    first = step.partition("/")[0]
    return first if first in replications() else SHARED


def _by_owner(steps: dict[str, Cost]) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {}
    for step, cost in steps.items():
        found.setdefault(_owner(step), []).append(cost)
    return found


def _total(taken: list[Cost]) -> Cost:
    """The sum of the seconds and the largest peaks."""
    peaks = {key: max(cost.get(key, 0.0) for cost in taken) for key in ("peak_rss_mb", "peak_gpu_mb")}
    return {"cpu_s": sum(cost["cpu_s"] for cost in taken), **peaks}


def cells(one: Estimate) -> list[str]:
    """One row of the table, without its name."""
    if one.cost is None:
        return [str(one.steps), *[NOT_KNOWN] * 3, one.source]
    gpu = one.cost["peak_gpu_mb"]
    shown = [f"{one.cost['cpu_s'] / 60:.1f}", f"{one.cost['peak_rss_mb'] / 1000:.1f}"]
    return [str(one.steps), *shown, f"{gpu / 1000:.1f}" if gpu else "–", one.source]


def in_total(found: dict[str, Estimate]) -> Estimate:
    """All rows together: the steps of all, the cost of those that are known."""
    known = [one.cost for one in found.values() if one.cost is not None]
    steps = sum(one.steps for one in found.values())
    return Estimate(steps, _total(known) if known else None, f"{len(known)} of {len(found)}")


def estimate(scale: str = "laptop") -> None:
    """Prints the table for one scale. UserError if there is no such scale, or no plan of it."""
    run = load_run(scale)
    jobs = plan("all", config=[f"scale={scale}"], options=["--forceall"])
    found = estimates(scale, jobs, Path(run.results), ROOT / FOLDER)
    table = Table(title=f"A whole run at scale {scale}")
    for head in HEADER:
        table.add_column(head, no_wrap=True)
    for name, one in found.items():
        table.add_row(name, *cells(one), end_section=name == list(found)[-1])
    table.add_row("total", *cells(in_total(found)))
    console = Console()
    console.print(table)
    if machines := sorted({one.machine for one in found.values()} - {""}):
        console.print(f"Records and profile: measured on {', '.join(machines)}.")
    if any(one.cost is None for one in found.values()):
        console.print("The total leaves out what is not known.")
    console.print(FOOT)


if __name__ == "__main__":
    as_command(lambda: tyro.cli(estimate))
