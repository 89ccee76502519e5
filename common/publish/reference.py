"""Which replications differ from the committed reference run in `figures/`: prints their names, one a line.

CI verifies these first and by all means; the others, whose sources, settings and claims are those of the reference run,
as far as its time allows. The state of a replication is one hash over the import closure of all its modules (lock
included) and of what makes models, corpora and verdicts, its claims and rules, the settings of the reference run's
scale, its models with their released SAEs, and the corpora. Settings and models of other scales do not count, nor does
what it reads of another replication's results.
"""

import hashlib
import json

from common.core.files import read_json, read_yaml
from common.core.settings import ROOT, load_replication, load_scale, replications
from common.core.source_hash import source_hash
from common.data.models import registry

STATES = ROOT / "figures" / "sources.json"
SCALE = "laptop"
SHARED = ("common.data.materialise", "common.recipes.python_docs", "common.recipes.self_chat", "common.core.verify")


def state(name: str) -> str:
    """16 hex digits that change when a run of this replication could give other metrics or verdicts."""
    folder = ROOT / "replications" / name
    modules = [f"replications.{name}.{path.stem}" for path in sorted(folder.glob("*.py"))]
    digest = hashlib.sha256(source_hash(*modules, *SHARED).encode())
    scale = load_scale(SCALE)
    digest.update((load_replication(name, SCALE).model_dump_json() + scale.model_dump_json()).encode())
    digest.update("".join(registry()[model].model_dump_json() for model in scale.models).encode())
    saes = [one for one in read_yaml(ROOT / "config" / "saes.yaml")["saes"].values() if one["model"] in scale.models]
    digest.update("".join(json.dumps(one, sort_keys=True) for one in saes).encode())
    files = [path for path in sorted(folder.glob("*.yaml")) if path.name != "config.yaml"]
    for path in [*files, *sorted(folder.glob("*.smk")), ROOT / "config" / "corpora.yaml"]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def states() -> dict[str, str]:
    """The state of every replication."""
    return {name: state(name) for name in replications()}


def changed() -> list[str]:
    """Replications that the reference run does not hold as they are now."""
    known = read_json(STATES) if STATES.exists() else {}
    return [name for name, found in states().items() if known.get(name) != found]


if __name__ == "__main__":
    print("\n".join(changed()))
