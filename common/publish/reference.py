"""Which records in `figures/` are out of date: prints one sentence for each, with the commands that renew it.

The state of a replication is one hash over the import closure of its modules (lock included), over what makes models,
corpora and verdicts, and over its claims, rules and settings at the recorded scale, with its models, released SAEs and
corpora. It does not hold what a replication reads of another one's results, which verdicts are expected, or what other
scales decide.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from common.core import seals
from common.core.files import read_json, read_yaml
from common.core.settings import ROOT, load_replication, load_scale, replications
from common.core.source_hash import source_hash
from common.data.models import registry

RECORDS = ROOT / "figures" / "records.json"
LEFT_OUT = ("scales", "expected_verdict", "tolerated_verdicts", "known_failures")
FAMOUS = "famous_figures.yaml"  # in the folder of a replication; it says nothing of metrics or verdicts
SHARED = ("common.data.materialise", "common.recipes.python_docs", "common.recipes.self_chat", "common.core.verify")


def state(name: str, scale: str) -> str:
    """16 hex digits that change when a run of this replication at `scale` could give other metrics or verdicts."""
    folder = ROOT / "replications" / name
    modules = [f"replications.{name}.{path.stem}" for path in sorted(folder.glob("*.py"))]
    digest = hashlib.sha256(source_hash(*modules, *SHARED).encode())
    scale = scale.split("-")[0]  # of a folder such as `laptop-calibration`
    chosen = load_scale(scale)
    digest.update((load_replication(name, scale).model_dump_json() + chosen.model_dump_json()).encode())
    digest.update("".join(registry()[model].model_dump_json() for model in chosen.models).encode())
    saes = read_yaml(ROOT / "config" / "saes.yaml")["saes"].values()
    own = [one for one in saes if one["model"] in chosen.models]
    digest.update("".join(json.dumps(one, sort_keys=True) for one in own).encode())
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".smk")]
    digest.update(seals.state(name, scale).encode())
    for path in [path for path in files if path.name not in ("config.yaml", FAMOUS)] + [
        ROOT / "config" / "corpora.yaml"
    ]:
        digest.update(path.name.encode() + (_claims(path, scale) if path.name == "claims.yaml" else path.read_bytes()))
    return digest.hexdigest()[:16]


def _claims(path: Path, scale: str) -> bytes:
    """The claims that this scale decides, without what is expected of them."""
    claims = [one for one in read_yaml(path)["claims"] if scale in one.get("scales", [scale])]
    kept = [{key: value for key, value in one.items() if key not in LEFT_OUT} for one in claims]
    return json.dumps(kept).encode()


def records() -> dict[str, Any]:
    """The committed records, by replication; none if nothing has been recorded."""
    found: dict[str, Any] = read_json(RECORDS) if RECORDS.exists() else {}
    return found


def stale() -> list[str]:
    """Replications whose record is missing or out of date."""
    known = records()
    return [
        name
        for name in replications()
        if name not in known or known[name]["state"] != state(name, known[name]["scale"])
    ]


def remedy(name: str) -> str:
    """One sentence on a record that is missing or out of date, with what renews it."""
    known = records().get(name)
    scale = known["scale"] if known else "full"
    wrong = "is out of date: its sources, settings or claims have changed since" if known else "is missing"
    return f"the record of {name} {wrong}; run `make SCALE={scale} {name} && make record SCALE={scale} NAME={name}`"


if __name__ == "__main__":
    print("\n".join(map(remedy, stale())) or "all records are up to date")
