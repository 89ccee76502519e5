"""What the controls of claims are, in words: `controls.yaml` of each replication, shown beside every control.

A definition is one string, or one for each claim where the same name stands for different things.
"""

from collections.abc import Iterable
from functools import cache

from pydantic import TypeAdapter, ValidationError

from common.core.errors import UserError
from common.core.files import read_yaml
from common.core.settings import ROOT
from common.publish.reference import CONTROLS

SHAPE = TypeAdapter(dict[str, str | dict[str, str]])


@cache
def definitions(replication: str) -> dict[str, str | dict[str, str]]:
    """The definitions of a replication by the control's name; empty without a file.

    UserError: the file holds something else than strings, or strings by claim.
    """
    path = ROOT / "replications" / replication / CONTROLS
    if not path.exists():
        return {}
    try:
        return SHAPE.validate_python(read_yaml(path))
    except ValidationError:
        raise UserError(f"{path}: give each control one line of text, or one for each claim that lists it") from None


def definition(claim: str, control: str | None) -> str:
    """What `control` is in the claim with the id `replication.claim`; empty where nobody says, or for no control."""
    replication, _, own = claim.partition(".")
    found = definitions(replication).get(control or "", "")
    return found if isinstance(found, str) else found.get(own, "")


def definition_files(names: Iterable[str]) -> list[str]:
    """The files with definitions of these replications, relative to the project."""
    paths = (f"replications/{name}/{CONTROLS}" for name in names)
    return [path for path in paths if (ROOT / path).is_file()]
