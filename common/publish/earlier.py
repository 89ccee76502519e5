"""What landmarks scored on earlier seeds: `make record` keeps it, and the documents show it beside what they score now.

A record on other seeds takes the place of one at the same scale, whose verdicts go to `figures/earlier.json`. So a
reader sees how far a verdict depends on the seeds, and whether bounds were fitted to those that were scored first.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.core.claims import Claim
from common.core.files import read_json, write_json
from common.core.lock import read_lock
from common.core.verdicts import OUTCOMES
from common.core.verify import NOT_RUN
from common.publish.claims_page import number, strongest, value

EARLIER = "earlier.json"
KEPT = ("id", "model", "verdict", "value", "ci_low", "ci_high", "per_seed", "unit", "assertion")
ROUNDING = 0.01  # of the interval: what another processor may change
Triple = tuple[float | None, float | None, float | None]
Twice = list[tuple[Claim, dict[str, Any]]]


def keep(folder: Path, claims: Sequence[dict[str, Any]], before: dict[str, Any], after: dict[str, Any]) -> None:
    """Keeps the landmarks among `claims` of each replication that `after` records on other seeds than `before` did.

    `before` holds the records that were scores, not those of calibration seeds.
    """
    known = _known(folder)
    for name, origin in after.items():
        old = before.get(name)
        if old and old["scale"] == origin["scale"] and old["seeds"] != origin["seeds"]:
            own = [claim for claim in claims if claim["replication"] == name and claim["tier"] == "landmark"]
            found = [
                {key: one[key] for key in KEPT} | {"controls": [control["name"] for control in one["controls"]]}
                for one in own
                if one["verdict"] != NOT_RUN
            ]
            known[name] = {"seeds": old["seeds"], "commit": old["commit"], "landmarks": found}
    write_json(folder / EARLIER, {name: known[name] for name in sorted(known) if name in after})


def twice(folder: Path, claims: Sequence[Claim]) -> Twice:
    """The landmarks that have a verdict on two sets of seeds, each with what it scored before. Where number and verdict
    are the same, seed by seed, seeds draw no sample, and it was scored once."""
    kept = {(one["id"], one["model"]): one for origin in _known(folder).values() for one in origin["landmarks"]}
    judged = [claim for claim in claims if claim.tier == "landmark" and claim.verdict != NOT_RUN]
    found = [(claim, kept[claim.id, claim.model]) for claim in judged if (claim.id, claim.model) in kept]
    return [
        (claim, old)
        for claim, old in found
        if claim.verdict != old["verdict"]
        or not same_number(triple(claim), triple(old))
        or otherwise_by_seed(claim.per_seed, old.get("per_seed"))
    ]


def triple(one: Claim | dict[str, Any]) -> Triple:
    """Value and interval."""
    content = one if isinstance(one, dict) else one.model_dump()
    return content["value"], content["ci_low"], content["ci_high"]


def tells(one: Triple) -> bool:
    """Whether another draw would show: there is a number, and it is no share of 0 or 1."""
    return None not in one and one[0] not in (0, 1)


def same_number(one: Triple, other: Triple) -> bool:
    """Whether value and interval are the same, up to what another processor may change. None is no number, and shares
    of 0 and 1 have the same interval whatever was drawn."""
    if None in other or not tells(one):
        return False
    width = abs(other[2] - other[1])  # type: ignore[operator]
    pairs = zip(one, other, strict=True)
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=ROUNDING * width) for a, b in pairs)  # type: ignore[arg-type]


def otherwise_by_seed(now: Sequence[float] | None, before: Sequence[float] | None) -> bool:
    """Whether the seeds, in order, have other values than those before; False where either has none."""
    if not now or not before:
        return False
    spread = ROUNDING * (max(before) - min(before))
    return not all(math.isclose(*pair, rel_tol=1e-9, abs_tol=spread) for pair in zip(now, before, strict=False))


def agreement(found: Twice) -> str:
    """`On earlier seeds 70 of 78 had the same verdict.`, or nothing if none was scored twice."""
    same = sum(claim.verdict == old["verdict"] for claim, old in found)
    return f"On earlier seeds {same} of {len(found)} had the same verdict." if found else ""


def twice_block(found: Twice) -> str:
    """How many verdicts agree, and a table of those that do not, with the strongest control of now."""
    rank = {str(verdict): place for place, verdict in enumerate(OUTCOMES)}  # best first
    moved = [(claim, old) for claim, old in found if claim.verdict != old["verdict"]]
    better = sum(rank[str(claim.verdict)] < rank[old["verdict"]] for claim, old in moved)
    counts = f"Verdicts that are better now: {better}; worse: {len(moved) - better}."
    lines = [f"{agreement(found)} {counts}".strip(), ""]
    lines += ["| landmark | bound | before | now | strongest control now |", "|---|---|---|---|---|"]
    for claim, old in moved:
        before = f"{old['verdict']}: {number(old['value'], old['ci_low'], old['ci_high'], old['unit'])}"
        if old["assertion"] != claim.assertion:
            before += f", bound {old['assertion']}"
        new = "" if claim.strongest_control in old["controls"] else " (new)"
        cells = (f"`{claim.id}`", claim.assertion, before, f"{claim.verdict}: {value(claim)}", strongest(claim) + new)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def sets_before(name: str, origin: dict[str, Any]) -> str:
    """On how many other sets of seeds the claims of a replication were scored at the scale of its record, in brackets;
    nothing if on none."""
    entries = [found[origin["scale"]] for found in read_lock(name).claims.values() if origin["scale"] in found]
    seeds = {seed for entry in entries if not entry.retired for seed in entry.scored_seeds} - set(origin["seeds"])
    sets = math.ceil(len(seeds) / len(origin["seeds"]))
    return f" ({sets} {'sets' if sets > 1 else 'set'} scored before)" if sets else ""


def _known(folder: Path) -> dict[str, Any]:
    return read_json(folder / EARLIER) if (folder / EARLIER).exists() else {}
