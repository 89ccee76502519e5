"""What the targets of a run are about, and its end: which claims it answers for, and the exit code."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from common.core.claims import Claim
from common.core.settings import ROOT, replications
from common.core.verify import overview, read_claims
from common.engine.config import Run
from common.engine.freeze import record_amendments
from common.engine.fresh import agreement
from common.engine.unsealed import unmeasured
from common.publish.texts import CLAIMS

CLAIMS_FAILED = 3
JUDGING = ("all", "verify", "report", "paper")  # targets that judge all claims
OF_OTHERS = re.compile(r"<all_results>/(\w+)/")  # how rules name results of another replication


def computed(targets: list[str], results: Path) -> list[str]:
    """Replications that are computed: those named, also by a file of theirs, or all; none for a corpus."""
    named = [name for name in replications() if any(name in Path(target).parts for target in targets)]
    every = whole(targets, results) or set(targets) & {"figures", "metrics", "browser"}
    return replications() if every else named


def with_sources(names: Iterable[str]) -> list[str]:
    """These replications and those whose results their rules read, also through others: a run measures them, too."""
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            rules = sorted((ROOT / "replications" / name).glob("*.smk"))
            waiting += [other for path in rules for other in OF_OTHERS.findall(path.read_text(encoding="utf-8"))]
    return sorted(found)


def whole(targets: list[str], results: Path) -> bool:
    """Whether all claims are judged: without targets, or with a file of the whole run."""
    return not targets or any(target in JUDGING or Path(target).parent == results for target in targets)


def note_amendments(results: Path, names: list[str], run: Run) -> None:
    """Records what the judge found amended in the claims of these replications, in a scored run. It does so after a
    failed run, too: a change that was scored is not to be lost."""
    paths = [results / name / CLAIMS for name in names] if run.kind == "scored" else []
    for line in record_amendments(run.scale, [claim for path in paths if path.exists() for claim in read_claims(path)]):
        print(line, file=sys.stderr)


def conclude(results: Path, targets: list[str], run: Run) -> int:
    """Prints what holds and where the results are; the exit code of the run. Other targets than claims and whole
    replications leave older claims as they are."""
    named = [results / name / CLAIMS for name in targets if name in replications()]
    named += [Path(target) for target in targets if Path(target).name == CLAIMS and Path(target).parent != results]
    every = whole(targets, results)
    files = named or ([results / CLAIMS] if every else [])
    claims = [claim for path in files if path.exists() for claim in read_claims(path)]
    if run.kind == "fresh":
        print(agreement(claims, run))
    for name in computed(targets, results):
        for line in unmeasured(name, results, run.models):
            print(f"note: {line}", file=sys.stderr)
    problems = [claim.problem for claim in claims if claim.problem and _counts(claim, run)]
    for problem in problems:
        print(f"claim failed: {problem}", file=sys.stderr)
    if claims:
        print(f"Claims: {overview(claims)}.")
    if named and not every:
        shown = ", ".join(f"{file.parent}/" for file in named)
        print(f"Results: {shown} (figures in */*/figures/, metrics beside them, verdicts in {CLAIMS})")
    else:
        there = [name for name in ("report.html", "paper.pdf", "claims.md") if every and (results / name).exists()]
        print(f"Results: {results}/" + (f" (open {', '.join(there)})" if there else ""))
    if problems:
        print("What to do about a failed claim: docs/claims.md, `When a claim fails`", file=sys.stderr)
    return CLAIMS_FAILED if problems else 0


def _counts(claim: Claim, run: Run) -> bool:
    """Whether a failed claim fails the run: on fresh seeds a landmark may well be judged otherwise."""
    return run.kind != "fresh" or claim.tier == "check"
