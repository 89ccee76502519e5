"""`make schemas`: JSON schemas of every YAML file of the project, generated from the pydantic classes, for editors.

The schema of a replication's settings lies beside its `config.yaml`, the others in `config/schemas/`.
"""

import json
from pathlib import Path

from common.core.claims import ClaimsFile
from common.core.files import write_text
from common.core.settings import ROOT, SCALES, ScaleSettings, Strict, replications, settings_class
from common.data.corpora import CorporaFile
from common.data.models import ModelsFile
from common.saes.public import SaesFile


def schemas() -> dict[Path, str]:
    """Path and text of every generated JSON schema."""
    classes: dict[str, type[Strict]] = {
        "scale": ScaleSettings,
        "claims": ClaimsFile,
        "models": ModelsFile,
        "corpora": CorporaFile,
        "saes": SaesFile,
    }
    found = {ROOT / "config" / "schemas" / f"{name}.json": one.model_json_schema() for name, one in classes.items()}
    for name in replications():
        block = settings_class(name).model_json_schema()
        definitions = block.pop("$defs", {})
        partial = json.loads(json.dumps({"$defs": definitions, "block": block}))
        for node in [partial["block"], *partial["$defs"].values()]:
            node.pop("required", None)  # a block may leave keys to `default`
        properties = {scale: partial["block"] for scale in ("default", *SCALES)}
        schema = {"type": "object", "additionalProperties": False, "properties": properties, "$defs": partial["$defs"]}
        found[ROOT / "replications" / name / "config.schema.json"] = schema
    return {path: json.dumps(schema, indent=2) + "\n" for path, schema in found.items()}


if __name__ == "__main__":
    for target, text in schemas().items():
        write_text(target, text)
