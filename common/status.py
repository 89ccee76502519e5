"""`make status`: one line per step (replication, step, state, seconds) and the claims held, failed and not run."""

import fcntl
import subprocess
import sys
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from common.config import ROOT, load_run, replications
from common.cost import step_cost
from common.errors import UserError
from common.models import registry
from common.verify import read_claims

STATES = {"ok": "done", "update pending": "to run", "missing": "to run"}


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


def planned(scale: str) -> dict[str, str]:
    """Rule -> 'done' or 'to run', as Snakemake sees it."""
    command = [sys.executable, "-m", "snakemake", "--nolock", "--config", f"scale={scale}", "--summary", "--", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: Snakemake cannot plan the run: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    rules: dict[str, str] = {}
    header, *rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        pending = cells["status"] != "ok" or cells["plan"] != "no update"
        rules[cells["rule"]] = "to run" if pending or rules.get(cells["rule"]) == "to run" else "done"
    return rules


def state_of(logs: list[Path], plan: str, active: bool) -> tuple[str, str]:
    """State and seconds of one step, from its plan and its logs (one a model)."""
    costs = [step_cost(log) for log in logs]
    if plan == "done":
        seconds = [cost["wall_s"] for cost in costs if cost]
        return "done", f"{sum(seconds):.1f}" if seconds else ""
    if None in costs:
        return ("running" if active else "failed or interrupted"), ""
    return "to run", ""


def status(scale: str = "laptop") -> None:
    """Prints the table for one scale."""
    try:
        load_run(scale)
    except UserError as error:
        sys.exit(f"error: {error}")
    results = ROOT / "results" / scale
    active = running(results)
    table = Table(
        "replication", "step", "state", "seconds", title=f"Scale {scale}{' (a run is active)' if active else ''}"
    )
    for rule, plan in sorted(planned(scale).items()):
        owner = next((name for name in replications() if rule.startswith(f"{name}_")), "")
        step = rule.removeprefix(f"{owner}_")
        logs = [*(results / "logs" / owner).glob(f"**/{step}.log")]
        if rule == "materialise_model":
            logs = [path for path in Path("resources/logs").glob("*.log") if path.stem in registry()]
        state, seconds = state_of(logs, plan, active)
        table.add_row(owner or "–", step, state, seconds)
    claims = Table("replication", "held", "failed", "not run", title="Claims")
    for name in replications():
        path = results / name / "claims.json"
        found = read_claims(path) if path.exists() else []
        skipped = sum(claim.verdict == "not run here" for claim in found)
        failed = sum(claim.problem is not None for claim in found)
        claims.add_row(name, *(map(str, (len(found) - skipped - failed, failed, skipped)) if found else ("–",) * 3))
    console = Console()
    console.print(table)
    console.print(claims)


if __name__ == "__main__":
    tyro.cli(status)
