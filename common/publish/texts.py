"""Titles and order of the replications, and the claims of the records with the sentences that `claims.yaml` has now.

Statement, source, counterpart and the paper's number decide nothing and are not sealed: they may be corrected without
another run. `make pages` and `make record` take them over into the records, and drop landmarks that `make amend` has
retired.
"""

import json
import re
from pathlib import Path
from typing import Any

from common.core.claims import Landmark, load_claims, load_planned
from common.core.files import read_json, write_text
from common.core.lock import read_lock
from common.core.settings import ROOT, replications
from common.core.verify import planned

CLAIMS, RECORDS = "claims.json", "records.json"
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
LATER = 9999  # a replication without a headline or year comes last
TEXTS = ("statement", "source", "counterpart", "paper_value")


def title(name: str) -> str:
    """The title of a replication: the first line of its page."""
    page = ROOT / "replications" / name / "README.md"
    return page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def chronological() -> list[str]:
    """All replications by the year of the result that leads them, as their claims cite it; then by name."""
    return sorted(replications(), key=lambda name: (_year(name), name))


def _year(name: str) -> int:
    first = next((claim for claim in load_claims(name) if claim.tier == "landmark" and claim.headline), None)
    return min((int(year) for year in YEAR.findall(first.source)), default=LATER) if first else LATER


def lines_of(entries: list[dict[str, Any]]) -> str:
    """JSON with an entry a line: a quarter smaller than with an indent, and a change shows in its own line."""
    lines = (json.dumps(one, sort_keys=True, allow_nan=False, ensure_ascii=False) for one in entries)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def with_texts(claims: list[dict[str, Any]], scales: dict[str, str]) -> list[dict[str, Any]]:
    """Recorded claims with their present sentences, and the claims that are planned now, sorted by replication.

    A retired landmark is left out. A claim that is gone otherwise, or has another metric or bound, keeps its sentence.

    Args:
        claims: the content of `claims.json`.
        scales: of each replication's record, since a landmark's sentence may depend on its bound.
    """
    known = [name for name in replications() if name in scales]
    present: dict[str, dict[str, Any]] = {}
    for name in known:
        for definition in load_claims(name):
            at = definition.at(scales[name]) if isinstance(definition, Landmark) else definition
            present[f"{name}.{definition.id}"] = at.model_dump(mode="json") | {"assertion": str(at.assertion)}
    found = []
    retired = {
        f"{name}.{claim}"
        for name in known
        for claim, entries in read_lock(name).claims.items()
        if all(entry.retired for entry in entries.values())
    }
    for claim in (one for one in claims if one["tier"] != "planned" or one["replication"] not in known):
        if claim["tier"] == "landmark" and claim["id"] in retired - present.keys():
            continue
        now = present.get(claim["id"], {})
        same = all(now.get(key) == claim.get(key) for key in ("metric", "assertion"))
        found.append(claim | ({text: now[text] for text in TEXTS if text in now} if same else {}))
    found += [planned(name, one).model_dump(mode="json") for name in known for one in load_planned(name)]
    return sorted(found, key=lambda one: str(one["replication"]))


def renew_texts(folder: Path) -> None:
    """Writes the present sentences into `claims.json` of a folder of records."""
    scales = {name: one["scale"] for name, one in read_json(folder / RECORDS).items()}
    write_text(folder / CLAIMS, lines_of(with_texts(read_json(folder / CLAIMS), scales)))
