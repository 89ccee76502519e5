"""What the controls of claims are, in words: `controls.yaml` of each replication, shown beside every control.

A definition is one string, or one for each claim where the same name stands for different things.
"""

from functools import cache

from pydantic import TypeAdapter

from common.core.files import read_yaml
from common.core.settings import ROOT
from common.publish.reference import CONTROLS

SHAPE = TypeAdapter(dict[str, str | dict[str, str]])


@cache
def definitions(replication: str) -> dict[str, str | dict[str, str]]:
    """The definitions of a replication by the control's name; empty without a file.

    ValidationError: the file holds something else than strings, or strings by claim.
    """
    path = ROOT / "replications" / replication / CONTROLS
    return SHAPE.validate_python(read_yaml(path)) if path.exists() else {}


def definition(claim: str, control: str | None) -> str:
    """What `control` is in the claim with the id `replication.claim`; empty where nobody says, or for no control."""
    replication, _, own = claim.partition(".")
    found = definitions(replication).get(control or "", "")
    return found if isinstance(found, str) else found.get(own, "")
