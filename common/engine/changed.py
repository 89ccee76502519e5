"""`python -m common.engine.changed`: did an upgrade change the science? Verdicts of a run beside the committed records.

For each replication of the run it lists the landmarks and checks whose verdict is not that of `figures/claims.json`. It
also lists the values that have left the recorded interval. Exit code 3 if a verdict has changed. Only records of the
same scale can be compared. In GitHub Actions the table also goes to the summary of the job.
"""

import os
import sys
from pathlib import Path

import tyro

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import read_json
from common.core.settings import ROOT, replications
from common.core.verify import read_claims
from common.engine.conclusion import CLAIMS_FAILED
from common.publish.claims_page import value
from common.publish.pages import FOLDER
from common.publish.reference import is_calibration
from common.publish.texts import CLAIMS, RECORDS


def pairs(scale: str, names: list[str]) -> list[tuple[Claim, Claim]]:
    """Claims of the run with their records. UserError if nothing can be compared."""
    folder = ROOT / FOLDER
    known = read_json(folder / RECORDS)
    comparable = [name for name in names if name in known and known[name]["scale"] == scale]
    scored = [name for name in comparable if not is_calibration(known[name])]
    recorded = {(one.id, one.model): one for one in read_claims(folder / CLAIMS) if one.replication in scored}
    files = [ROOT / "results" / scale / name / CLAIMS for name in scored]
    found = [claim for file in files if file.exists() for claim in read_claims(file)]
    both = [(new, recorded[new.id, new.model]) for new in found if (new.id, new.model) in recorded]
    judged = [(new, old) for new, old in both if new.value is not None and old.value is not None]
    if not judged:
        raise UserError(
            f"there is nothing to compare: results/{scale} has no claim that figures/ records at this scale; "
            f"run `make SCALE={scale} <replication>` first"
        )
    return judged


def left(new: Claim, old: Claim) -> bool:
    """Whether the value has left the interval of the record."""
    if new.value is None or old.ci_low is None or old.ci_high is None:
        return False
    return not old.ci_low <= new.value <= old.ci_high


def table(found: list[tuple[Claim, Claim]]) -> str:
    """Markdown: one sentence and the claims that differ."""
    verdicts = [(new, old) for new, old in found if new.verdict != old.verdict]
    moved = [(new, old) for new, old in found if left(new, old)]
    lines = [
        f"{len(found) - len(verdicts)} of {len(found)} verdicts are those of the records; "
        f"{len(moved)} values have left the recorded interval."
    ]
    if shown := [pair for pair in found if pair in verdicts or pair in moved]:
        lines += ["", "| claim | record | this run |", "|---|---|---|"]
        lines += [f"| {new.id} | {old.verdict}: {value(old)} | {new.verdict}: {value(new)} |" for new, old in shown]
    return "\n".join(lines)


def changed(scale: str = "full", names: str = "") -> int:
    """Prints the comparison. `names`: replications, separated by spaces; by default all."""
    chosen = names.split() or replications()
    if unknown := sorted(set(chosen) - set(replications())):
        raise UserError(f"unknown replication '{unknown[0]}': there are {', '.join(replications())}")
    found = pairs(scale, chosen)
    print(text := table(found))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as handle:
            handle.write(f"## Did it change the science?\n\n{text}\n")
    return CLAIMS_FAILED if any(new.verdict != old.verdict for new, old in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(changed))
    except UserError as error:
        sys.exit(f"error: {error}")
