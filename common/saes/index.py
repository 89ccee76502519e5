"""The manifest of the dictionaries that one step trained: `index.json`, beside the SAELens folder of each.

Other replications and pages read it through `read_index` and never guess folder names. An entry carries the version of
this format; a file of another version is refused.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import RootModel, ValidationError, model_validator

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import Strict
from common.saes.recipe import Recipe

if TYPE_CHECKING:
    from common.saes.sae import Sae

VERSION: Literal[1] = 1


class Entry(Strict):
    """One dictionary; its folder has its name."""

    version: Literal[1] = VERSION
    name: str
    kind: str = ""
    recipe: Recipe | None = None


class _Entries(RootModel[list[Entry]]):
    @model_validator(mode="after")
    def _distinct(self) -> "_Entries":
        names = [entry.name for entry in self.root]
        if len(set(names)) < len(names):
            raise ValueError(f"the name '{max(names, key=names.count)}' stands here twice")
        return self


class Index:
    """The dictionaries of one folder, in the order of their training."""

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self.folder = path.parent
        self.entries = {entry.name: entry for entry in entries}

    def path(self, name: str) -> Path:
        """The SAELens folder of a dictionary. UserError naming those that there are."""
        if name not in self.entries:
            raise UserError(f"no SAE '{name}' in {self.folder}; there are {', '.join([*self.entries][:6])}, ...")
        return self.folder / name

    def load(self, name: str, device: str = "cpu") -> "Sae":
        """One dictionary. UserError naming those that there are."""
        from common.saes.saelens import load_saelens  # rule files read this module, and torch is slow to import

        return load_saelens(self.path(name), device)

    def of_kinds(self, *kinds: str) -> list[Entry]:
        """The entries of some kinds, in order."""
        return [entry for entry in self.entries.values() if entry.kind in kinds]


def write_index(path: Path, entries: list[Entry]) -> None:
    """Writes `index.json`; last of all, since it says that the folders beside it are complete."""
    write_json(path, _Entries(entries).model_dump(mode="json"))


def read_index(path: Path) -> Index:
    """Reads `index.json`. UserError naming the file and the field where it breaks the contract."""
    try:
        return Index(path, _Entries.model_validate(read_json(path)).root)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path} is no index of dictionaries: {place}: {first['msg']}; rerun its step") from None
