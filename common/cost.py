"""Step: writes `cost.json`: what each step took, from the last line of its log and from the size of what it wrote, and
in total.
"""

import base64
import binascii
import json
from collections import Counter
from pathlib import Path
from typing import Any

from common.cli import COST_PREFIX, run
from common.errors import UserError
from common.files import read_json, write_json

SUMMED = ("wall_s", "cpu_s", "gpu_s")
LARGEST = ("peak_rss_mb", "peak_gpu_mb")
OUTPUT_RECORDS = Path(".snakemake/metadata")  # Snakemake's record of each output, named by its path in base 64


def step_cost(log: Path) -> dict[str, float] | None:
    """The cost line that closes the log of a finished step, or None if the step did not finish."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[-1].startswith(COST_PREFIX):
        return None
    found: dict[str, float] = json.loads(lines[-1].removeprefix(COST_PREFIX))
    return found


def _disk_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def written_mb(records: Path = OUTPUT_RECORDS) -> dict[str, float]:
    """Size of what each step has written, by its log. A step of which Snakemake keeps no record is not in it."""
    bytes_written = Counter[str]()
    for record in sorted(path for path in records.rglob("*") if path.is_file()):
        try:
            name = "".join(part.removeprefix("@") for part in record.relative_to(records).parts)
            output, content = Path(base64.b64decode(name, altchars=b"-_", validate=True).decode()), read_json(record)
            logs = content["log"] or []
        except (binascii.Error, UnicodeDecodeError, UserError, KeyError, TypeError):
            continue  # not a record as we know it
        files = output.rglob("*") if output.is_dir() else [output]
        size = sum(path.stat().st_size for path in files if path.is_file())
        for log in logs[:1] if output.exists() else []:
            bytes_written[log] += size
    return {log: round(size / 1e6, 3) for log, size in bytes_written.items()}


def total(costs: list[dict[str, float]]) -> dict[str, float]:
    """Sums of seconds and largest peaks. Steps that ran side by side count in full, so `wall_s` is an upper bound."""
    summed = {key: round(sum(cost[key] for cost in costs), 1) for key in SUMMED}
    return summed | {key: max((cost[key] for cost in costs), default=0.0) for key in LARGEST}


def costs(results: Path) -> dict[str, Any]:
    """What the logs of a run and of the models say: steps, sums by replication, total."""
    logs = results / "logs"
    files = {str(path.relative_to(logs).with_suffix("")): path for path in sorted(logs.rglob("*.log"))}
    files |= {f"models/{path.stem}": path for path in sorted(Path("resources/logs").glob("*.log"))}
    written = written_mb()
    finished = {
        name: found | ({"disk_mb": written[str(path)]} if str(path) in written else {})
        for name, path in files.items()
        if (found := step_cost(path)) is not None
    }
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
