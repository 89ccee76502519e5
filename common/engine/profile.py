"""`make profile`: what every step of a finished run took and which steps wait for each other.

Writes `figures/profile.json` and the generated parts of `docs/performance.md` and `README.md`.

Seconds and memory come from the logs (`common.publish.cost`), the order of the steps from a plan of the whole workflow.
The time by the clock comes from the events of the last run, if that run made every step of the results. The critical
path is the chain of steps, each waiting for the one before, with the largest sum of wall seconds. No number of cores is
faster.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from common.core.errors import UserError
from common.core.events import EVENTS, Event, Kind, read_events
from common.core.files import write_json
from common.core.settings import ROOT
from common.engine.failure import as_command
from common.engine.plan import plan
from common.publish.cost import costs
from common.publish.pages import FOLDER, write_pages
from common.publish.performance import PAGE, PROFILE, profile_block
from common.publish.provenance import device_name, instructions

SHARED_LOGS = Path("resources", "logs")
KEPT = ("cpu_s", "wall_s", "peak_rss_mb")


def name_of(log: str, results: Path) -> str:
    """The name that `common.publish.cost` gives to the step with this log."""
    path = Path(log)
    if path.is_relative_to(SHARED_LOGS):
        return f"models/{path.stem}"
    return str(path.relative_to(results / "logs").with_suffix("")) if path.is_relative_to(results / "logs") else log


def critical_path(jobs: list[Event], seconds: Mapping[str, float], results: Path) -> list[str]:
    """Steps of the chain with the largest sum of seconds, in order. Jobs without a log take none."""
    makers = {path: job for job in jobs for path in job.output}
    longest: dict[int, tuple[float, list[str]]] = {}

    def chain(job: Event) -> tuple[float, list[str]]:
        if id(job) not in longest:
            before = {id(makers[path]): makers[path] for path in job.input if path in makers}
            total, names = max((chain(one) for one in before.values()), key=lambda one: one[0], default=(0.0, []))
            name = name_of(job.log[0], results) if job.log else ""
            own = [name] if name in seconds else []
            longest[id(job)] = (total + seconds.get(name, 0.0), [*names, *own])
        return longest[id(job)]

    return max((chain(job) for job in jobs), key=lambda one: one[0], default=(0.0, []))[1]


def by_the_clock(events: list[Event], n_steps: int) -> float | None:
    """Seconds of the last run from its start to the end of its last job; None if it made fewer than `n_steps`."""
    starts = [place for place, event in enumerate(events) if event.event == Kind.RUN_STARTED]
    if not starts:
        return None
    last = events[starts[-1] :]
    made = [event for event in last if event.event == Kind.JOB_FINISHED and event.log]
    return made[-1].time - last[0].time if len(made) >= n_steps else None


def own_steps(jobs: list[Event], results: Path) -> set[str]:
    """Names of the steps that write into the results. Models and corpora, which all runs share, may be older."""
    logs = [job.log[0] for job in jobs if job.log]
    return {name_of(log, results) for log in logs if not Path(log).is_relative_to(SHARED_LOGS)}


def collect(results: Path, jobs: list[Event], n_cores: int) -> dict[str, Any]:
    """The content of `figures/profile.json`."""
    found = costs(results)
    steps = {name: {key: one[key] for key in KEPT} for name, one in found["steps"].items()}
    logged = own_steps(jobs, results)
    clock = by_the_clock(read_events(results / EVENTS), len(logged & set(steps)))
    path = critical_path(jobs, {name: one["wall_s"] for name, one in steps.items()}, results)
    return {
        "scale": results.name,
        "machine": f"{device_name('cpu')} ({instructions()})",
        "cores": n_cores,
        "clock_s": clock and round(clock, 1),
        "missing": sorted(logged - set(steps)),
        "critical_path": path,
        "steps": steps,
    }


def profile(scale: str = "laptop") -> None:
    """Writes the profile of the run in `results/<scale>`. UserError if there is none."""
    results = Path("results", scale)
    if not (results / EVENTS).exists():
        raise UserError(f"results/{scale} holds no run; run `make SCALE={scale}` first")
    jobs = plan("all", config=[f"scale={scale}"], options=["--forceall"])
    found = collect(results, jobs, os.cpu_count() or 1)
    if scale == "smoke":  # numbers of a run whose results mean nothing stay out of the records
        print(profile_block(found))
        return
    write_json(ROOT / FOLDER / PROFILE, found)
    write_pages(ROOT / FOLDER)
    print(f"{PAGE.relative_to(ROOT)} and README.md show the profile of results/{scale}")


if __name__ == "__main__":
    as_command(lambda: tyro.cli(profile))
