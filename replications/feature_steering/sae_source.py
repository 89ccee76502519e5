"""Where the SAEs of a model come from: released ones (`config/saes.yaml`), or those that `sparse_autoencoders` trains.

For the rule file, so it imports nothing heavy. Of several released SAEs of a model the last one counts.
"""

from typing import Any

from common.core.files import read_yaml
from common.core.settings import ROOT
from common.data.models import registry

RELEASED: dict[str, dict[str, Any]] = {
    model: {"sae": name, "layer": int(one["hook"].split(".")[1]) + one["hook"].endswith("hook_resid_post")}
    for name, one in read_yaml(ROOT / "config" / "saes.yaml")["saes"].items()
    for model in (one["model"], *one.get("used_with", []))
}
BEHIND = 3  # blocks between a released SAE and the judge
OWN_MB = 3500  # memory of a step with SAEs trained here


def either(model: str, released: str, own: str) -> str:
    """The path for a model with a released SAE, or for one without."""
    return released if model in RELEASED else own


def memory(model: str) -> int:
    """Megabytes for a step: a released SAE has many latents, and its model may be large."""
    return 8000 + 2 * registry()[model].size_mb if model in RELEASED else OWN_MB


def of_model(model: str, concepts: dict[str, Any], sae: str) -> dict[str, Any]:
    """Settings of the concepts and name of the SAE; with a released one the judge stands `BEHIND` blocks behind."""
    if model not in RELEASED:
        return {"concepts": concepts, "sae": sae}
    own = RELEASED[model]
    return {"concepts": concepts | {"judge_layer": own["layer"] + BEHIND}, "sae": own["sae"]}


def released(model: str) -> str:
    """Name of the released SAE of a model."""
    return str(RELEASED[model]["sae"])
