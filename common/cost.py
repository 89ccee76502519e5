"""Step: writes `cost.json`: what each step took, from the last line of its log, and in total."""

import json
from pathlib import Path
from typing import Any

from common.cli import COST_PREFIX, run
from common.files import write_json

SUMMED = ("wall_s", "cpu_s", "gpu_s")
LARGEST = ("peak_rss_mb", "peak_gpu_mb")


def step_cost(log: Path) -> dict[str, float] | None:
    """The cost line that closes the log of a finished step, or None if the step did not finish."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[-1].startswith(COST_PREFIX):
        return None
    found: dict[str, float] = json.loads(lines[-1].removeprefix(COST_PREFIX))
    return found


def _disk_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def total(costs: list[dict[str, float]]) -> dict[str, float]:
    """Sums of seconds and largest peaks. Steps that ran side by side count in full, so `wall_s` is an upper bound."""
    summed = {key: round(sum(cost[key] for cost in costs), 1) for key in SUMMED}
    return summed | {key: max((cost[key] for cost in costs), default=0.0) for key in LARGEST}


def costs(results: Path) -> dict[str, Any]:
    """What the logs of a run and of the models say: steps, sums by replication, total."""
    logs = results / "logs"
    steps = {str(path.relative_to(logs).with_suffix("")): step_cost(path) for path in sorted(logs.rglob("*.log"))}
    steps |= {f"models/{path.stem}": step_cost(path) for path in sorted(Path("resources/logs").glob("*.log"))}
    finished = {name: found for name, found in steps.items() if found is not None}
    groups = sorted({name.split("/")[0] for name in finished if "/" in name})
    return {
        "steps": finished,
        "replications": {
            group: total([found for name, found in finished.items() if name.startswith(f"{group}/")])
            | {"disk_mb": _disk_mb(Path("resources/models") if group == "models" else results / group)}
            for group in groups
        },
        "total": total(list(finished.values())) | {"disk_mb": _disk_mb(results) + _disk_mb(Path("resources"))},
    }


def cost(out: Path) -> None:
    """Writes `out`, the `cost.json` of the run in that folder."""
    write_json(out, costs(out.parent))


if __name__ == "__main__":
    run(cost)
