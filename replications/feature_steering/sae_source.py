"""Where the SAEs of a model come from: `config/saes.yaml`, or else `sparse_autoencoders` trains them.

The registry has SAEs of hub models, and the reference dictionary of the embedded model, which this repository ships.
For the rule file, so it imports nothing heavy. Of several SAEs of a model the last one counts.
"""

from typing import Any

from common.core.files import read_yaml
from common.core.settings import ROOT
from common.data.models import registry

RELEASED: dict[str, dict[str, Any]] = {
    model: {
        "sae": name,
        "layer": int(one["hook"].split(".")[1]) + one["hook"].endswith("hook_resid_post"),
        "shipped": "repository" not in one,
    }
    for name, one in read_yaml(ROOT / "config" / "saes.yaml")["saes"].items()
    for model in (one["model"], *one.get("used_with", []))
}
BEHIND = 3  # blocks between a released SAE and the judge
OWN_MB = 3500  # memory of a step with SAEs trained here


def either(model: str, released: str, own: str) -> str:
    """The path for a model with a released SAE, or for one without."""
    return released if model in RELEASED else own


def memory(model: str) -> int:
    """Megabytes for a step: a SAE from a hub has many latents, and its model may be large."""
    small = model not in RELEASED or RELEASED[model]["shipped"]
    return OWN_MB if small else 8000 + 4 * registry()[model].size_mb


def of_model(model: str, concepts: dict[str, Any], sae: str) -> dict[str, Any]:
    """Settings of the concepts and name of the SAE; with one from a hub the judge stands `BEHIND` blocks behind."""
    if model not in RELEASED:
        return {"concepts": concepts, "sae": sae}
    own = RELEASED[model]
    if own["shipped"]:
        return {"concepts": concepts, "sae": own["sae"]}
    return {"concepts": concepts | {"judge_layer": own["layer"] + BEHIND}, "sae": own["sae"]}


def released(model: str) -> str:
    """Name of the released SAE of a model."""
    return str(RELEASED[model]["sae"])
