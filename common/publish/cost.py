"""Step: writes `cost.json`: what each step took and the total.

Seconds and memory come from the last line of a step's log. The size of what it wrote comes from the outputs that the
events of the run name.
"""

import json
from pathlib import Path
from typing import Any

from common.core.events import EVENTS, Kind, read_events
from common.core.files import read_yaml, write_json
from common.core.settings import checked
from common.core.step import COST_PREFIX, Files, run_step
from common.data.corpora import CORPORA_FILE, CorporaFile, SelfChat
from common.data.models import registry

SUMMED = ("wall_s", "cpu_s", "gpu_s")
LARGEST = ("peak_rss_mb", "peak_gpu_mb")
TRAINED = "smoke_model"  # log of the rule that makes models of source `trained`
ON_DEMAND = "on_demand"  # folder for logs of steps that no whole run makes


def step_cost(log: Path) -> dict[str, float] | None:
    """The cost line that closes the log of a finished step, or None if the step did not finish, or begins just now."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:  # Snakemake removes the old log of a step that it starts
        return None
    if not lines or not lines[-1].startswith(COST_PREFIX):
        return None
    found: dict[str, float] = json.loads(lines[-1].removeprefix(COST_PREFIX))
    return found


def _disk_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def written_mb(events: Path) -> dict[str, float]:
    """Size of what each step has written, by its log. A step that has never run with events is not in it."""
    outputs = {
        event.log[0]: event.output
        for event in read_events(events)
        if event.event in (Kind.JOB_STARTED, Kind.JOB_FINISHED) and event.log
    }
    return {log: round(sum(map(_bytes, map(Path, paths))) / 1e6, 3) for log, paths in outputs.items()}


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def total(costs: list[dict[str, float]]) -> dict[str, float]:
    """Sums of seconds and largest peaks. Steps that ran side by side count in full, so `wall_s` is an upper bound."""
    summed = {key: round(sum(cost[key] for cost in costs), 1) for key in SUMMED}
    return summed | {key: max((cost[key] for cost in costs), default=0.0) for key in LARGEST}


def shared_folders(results: Path) -> dict[str, Path]:
    """What this run has used of `resources/`, by the name of its log.

    These are the corpora with the model that wrote them, and the models of its results with those they are made
    from."""
    corpora = checked(CorporaFile, read_yaml(CORPORA_FILE), CORPORA_FILE).corpora
    found = {name: Path("resources/corpora", name) for name in corpora}
    writers = {one.model for one in corpora.values() if isinstance(one, SelfChat)}
    for name, model in registry().items():
        if name in writers or any(results.glob(f"*/{name}/")):
            found[name] = Path("resources/models", name)
            if model.source == "trained":
                found[TRAINED] = Path(str(model.folder))
    return found


def costs(results: Path) -> dict[str, Any]:
    """What the logs of a run, of its models and of its corpora say: steps, sums by replication, total. Steps made on
    demand are not counted."""
    logs = results / "logs"
    names = [path.relative_to(logs) for path in sorted(logs.rglob("*.log")) if path.parent.name != ON_DEMAND]
    files = {str(name.with_suffix("")): logs / name for name in names}
    shared = shared_folders(results)
    files |= {
        f"models/{name}": path for name in sorted(shared) if (path := Path(f"resources/logs/{name}.log")).exists()
    }
    written = written_mb(results / EVENTS)
    finished = {
        name: found | ({"disk_mb": written[str(path)]} if str(path) in written else {})
        for name, path in files.items()
        if (found := step_cost(path)) is not None
    }
    shared_mb = round(sum(_disk_mb(folder) for folder in shared.values()), 1)
    groups = sorted({name.split("/")[0] for name in finished if "/" in name})
    return {
        "steps": finished,
        "replications": {
            group: total([found for name, found in finished.items() if name.startswith(f"{group}/")])
            | {"disk_mb": shared_mb if group == "models" else _disk_mb(results / group)}
            for group in groups
        },
        "total": total(list(finished.values())) | {"disk_mb": round(_disk_mb(results) + shared_mb, 1)},
    }


class CostFiles(Files):
    cost: Path
    """`cost.json`, in the folder of the run"""


def cost(files: CostFiles) -> None:
    """Writes what the run cost so far."""
    write_json(files.cost, costs(files.cost.parent))


if __name__ == "__main__":
    run_step(cost)
