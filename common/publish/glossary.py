"""The glossary of a replication: every metric that a landmark or check judges, and the line of code that makes it.

What a metric is comes from where it was measured: the `formula` of the run, kept in its record. Without one, a landmark
takes that of its seal. Else it is what the code hands over as `formula` (`…` where only a run knows). Lines change with
every edit, so they stand on generated pages alone, found anew each time (`common.publish.metric_sources`).
"""

import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from common.core.claims import Claim
from common.core.lock import read_lock
from common.core.metrics import read_metrics
from common.core.seals import standing
from common.core.settings import ROOT
from common.publish.metric_sources import Place, place_of


class Term(NamedTuple):
    """One judged metric. `formula` is None where neither run nor seal nor code says it."""

    part: str
    metric: str
    formula: str | None
    unit: str
    counted: str
    claims: list[Claim]
    place: Place | None


def terms(name: str, claims: list[Claim], formulas: dict[str, str]) -> list[Term]:
    """The judged metrics of a replication in the order of its claims; `formulas` are those of the run."""
    judged: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if claim.part and claim.metric:
            judged.setdefault((claim.part, claim.metric), []).append(claim)
    found = []
    for (part, metric), group in judged.items():
        place = place_of(name, part, metric)
        formula = formulas.get(f"{part}.{metric}") or next(filter(None, map(sealed, group)), None)
        units, counts = (
            dict.fromkeys(filter(None, values)) for values in ([c.unit for c in group], map(counted, group))
        )
        own = {claim.id: claim for claim in group}
        said = formula or (place.formula if place else None)
        found.append(Term(part, metric, said, ", ".join(units), "; ".join(counts), list(own.values()), place))
    return found


def sealed(claim: Claim) -> str | None:
    """The formula in the seal of a landmark, at the scale that was sealed last."""
    lock = read_lock(claim.replication)
    entries = lock.claims.get(claim.id.partition(".")[2], {}).values()
    fields = [standing(entry) for entry in sorted(entries, key=lambda one: one.seal.date if one.seal else "")]
    own = [found.get(f"{claim.model}.formula") for found in fields if found.get("metric") == claim.metric]
    return next(filter(None, reversed(own)), None)


def counted(claim: Claim) -> str:
    """What n counts: `5 seeds`, or `176, interval over 44 templates`."""
    if claim.n is None:
        return ""
    over = f"{claim.uncertainty.count} {claim.uncertainty.unit}" if claim.uncertainty else ""
    if claim.uncertainty and claim.uncertainty.count == claim.n:
        return over
    return f"{claim.n}, interval over {over}" if over else f"{claim.n}, no interval"


def formulas_of(results: Path, name: str, claims: list[Claim]) -> dict[str, str]:
    """The formula of each judged metric in the results of a run, by part and metric."""
    found = {}
    for claim in claims:
        path = results / name / claim.model / (claim.part or "") / "metrics.json"
        metric = read_metrics(path).get(claim.metric or "") if path.exists() else None
        if metric is not None:
            found[f"{claim.part}.{claim.metric}"] = metric.formula
    return found


def address(place: Place, repository: str) -> str | None:
    """Where the web shows a place: the line at the present commit, or the file alone if it differs from that commit.

    None without a repository."""
    commit, changed = present()
    if not repository:
        return None
    if commit is None or place.path in changed:
        return f"{repository}/blob/HEAD/{place.path}"
    return f"{repository}/blob/{commit}/{place.path}" + (f"#L{place.line}" if place.line else "")


@cache
def present() -> tuple[str | None, frozenset[str]]:
    """The commit that is checked out and the files that differ from it; None outside a git checkout."""

    def git(*words: str) -> list[str]:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")

    try:
        return git("rev-parse", "HEAD")[0], frozenset(git("diff", "--name-only", "HEAD"))
    except (OSError, subprocess.CalledProcessError):
        return None, frozenset()
