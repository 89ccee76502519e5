"""Which records in `figures/` are out of date: prints one sentence for each, with the commands that renew it.

The state of a replication has two parts. One is a hash over code: the import closure of its modules (lock included),
what makes models, corpora and verdicts, and its rules. The other is one over what was chosen: its claims, seals and
settings at the recorded scale. To that belong its models, their released SAEs, and the corpora that it names. Neither
holds what a replication reads of another one's results, the sentences of claims, which verdicts are expected, or what
other scales decide.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from common.core import seals
from common.core.files import read_json, read_yaml
from common.core.settings import ROOT, load_replication, load_scale, replications
from common.core.source_hash import source_hash
from common.data.corpora import judging_split
from common.data.models import registry
from common.publish.texts import TEXTS

RECORDS = ROOT / "figures" / "records.json"
LEFT_OUT = ("scales", "headline", "expected_verdict", "tolerated_verdicts", "known_failures", "bounds", *TEXTS)
FAMOUS, CONTROLS = "famous_figures.yaml", "controls.yaml"  # of a replication, for readers: neither decides a verdict
SHARED = ("common.data.materialise", "common.recipes.python_docs", "common.recipes.self_chat", "common.core.verify")


def state(name: str, scale: str) -> str:
    """Two hashes of 16 hex digits, of code and of what was chosen. One of them changes when a run of this replication
    at `scale` could give other metrics or verdicts."""
    return f"{_code(name)}.{chosen(name, scale)}"


def _code(name: str) -> str:
    folder = ROOT / "replications" / name
    modules = [f"replications.{name}.{path.stem}" for path in sorted(folder.glob("*.py"))]
    digest = hashlib.sha256(source_hash(*modules, *SHARED).encode())
    for path in sorted(folder.glob("*.smk")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def chosen(name: str, scale: str) -> str:
    """16 hex digits over what a run of this replication is asked to do."""
    scale = scale.split("-")[0]  # of a folder such as `laptop-calibration`
    settings = load_scale(scale, name)
    asked = load_replication(name, scale).model_dump_json(exclude_none=True)  # a setting that is null asks for nothing
    digest = hashlib.sha256((asked + settings.model_dump_json(exclude={"own_seeds"})).encode())
    digest.update("".join(registry()[model].model_dump_json() for model in settings.models).encode())
    saes = read_yaml(ROOT / "config" / "saes.yaml")["saes"].values()
    own = [one for one in saes if one["model"] in settings.models]
    digest.update("".join(json.dumps(one, sort_keys=True) for one in own).encode())
    digest.update(seals.state(name, scale).encode())
    files = sorted((ROOT / "replications" / name).glob("*.yaml"))
    contents = {
        path.name: _claims(path, scale) if path.name == "claims.yaml" else read_yaml(path)
        for path in files
        if path.name not in ("config.yaml", FAMOUS, CONTROLS)
    }
    contents["corpora.yaml"] = {"corpora": corpora_of(name)}
    for file, content in contents.items():
        digest.update(file.encode() + json.dumps(content, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def corpora_of(name: str) -> dict[str, Any]:
    """The entries of the corpora that a replication reads: those that its rules, modules or settings name."""
    folder = ROOT / "replications" / name
    files = [*folder.glob("*.smk"), *folder.glob("*.py"), folder / "config.yaml"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    entries: dict[str, Any] = read_yaml(ROOT / "config" / "corpora.yaml")["corpora"]
    return {key: entry for key, entry in entries.items() if re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", text)}


def _claims(path: Path, scale: str) -> list[dict[str, Any]]:
    """The claims that this scale decides, by name, with its bound, without what is expected of them or how they are
    shown."""
    claims = [one for one in read_yaml(path)["claims"] if one["tier"] != "planned" and scale in one["scales"]]
    kept = [
        {key: value for key, value in one.items() if key not in LEFT_OUT}
        | {"assertion": one.get("bounds", {}).get(scale, one)["assertion"]}
        for one in claims
    ]
    return sorted(kept, key=lambda one: str(one["id"]))


def records() -> dict[str, Any]:
    """The committed records, by replication; none if nothing has been recorded."""
    found: dict[str, Any] = read_json(RECORDS) if RECORDS.exists() else {}
    return found


def seed_list(seeds: list[int]) -> str:
    """`0 to 4` for three or more in a row, else every seed."""
    row = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if row else ", ".join(map(str, seeds))


def seeds_of(origin: dict[str, Any]) -> str:
    """The seeds of a recorded run, and whether they are those of its calibration, which scores nothing."""
    return f"{'calibration ' if is_calibration(origin) else ''}seeds {seed_list(origin['seeds'])}"


def is_calibration(origin: dict[str, Any]) -> bool:
    """Whether a record is that of a calibration run, whose verdicts set the seals and are no scores."""
    return judging_split(origin["seeds"]) == "validation"


def stale() -> list[str]:
    """Replications whose record is missing or out of date."""
    known = records()
    return [
        name
        for name in replications()
        if name not in known or known[name]["state"] != state(name, known[name]["scale"])
    ]


def remedy(name: str, *, by_code: bool = True) -> str:
    """One sentence on a record that is missing or out of date, with what renews it. `by_code`: an edit of code alone
    may be behind it."""
    known = records().get(name)
    scale = known["scale"] if known else "full"
    wrong = "is out of date: its sources, settings or claims have changed since" if known else "is missing"
    runs = f"run `make SCALE={scale} {name} && make record SCALE={scale} NAME={name}`"
    return f"the record of {name} {wrong}; {runs}" + (
        ", or `make carry` if no value has changed" if known and by_code else ""
    )


if __name__ == "__main__":
    print("\n".join(map(remedy, stale())) or "all records are up to date")
