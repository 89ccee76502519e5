"""`claims.lock` of a replication: its seals, and what has happened to them. Written by the tools alone.

For each landmark and scale it holds the sealed fields (bound, neutral, role, metric, formula, controls, n, settings,
seeds) and their hash. It also holds the seeds on which the claim has been scored, and every amendment. One more hash is
over all of it, so that no part can be edited by hand, history included.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from common.core.claims import Amendment, Landmark
from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import ROOT, Scale, Strict


class Seal(Strict):
    """What was fixed, when, and for which seeds."""

    date: str
    calibration_seeds: list[int]
    scoring_seeds: list[int]
    definition: dict[str, Any]
    settings: dict[str, Any]
    measured: dict[str, dict[str, Any]] = Field(description="model -> formula, unit, n, uncertainty, controls")
    hash: str

    def digest(self) -> str:
        """16 hex digits over everything but the hash itself."""
        return _digest(self)

    def replaced(self) -> "Replaced":
        """What is kept of it once another seal has taken its place."""
        return Replaced(
            **{name: getattr(self, name) for name in Replaced.model_fields if name != "assertion"},
            assertion=self.definition["assertion"],
        )


class Replaced(Strict):
    """A seal that another one has replaced: its bound, its seeds, and the hash of the whole seal, which the history of
    the repository holds."""

    date: str
    calibration_seeds: list[int]
    scoring_seeds: list[int]
    assertion: dict[str, Any]
    hash: str


class Entry(Strict):
    """One landmark at one scale. `seal` is null for a claim that was scored before it was sealed."""

    metric: str = Field(description="part and metric: a claim under a new name inherits the seeds of the old one")
    seal: Seal | None = None
    scored_seeds: list[int] = Field(default_factory=list)
    amended: list[Amendment] = Field(default_factory=list)
    retired: str | None = Field(default=None, description="why it is no longer a landmark")
    earlier: list[Replaced] = Field(default_factory=list, description="seals that this one has replaced")


class Lock(Strict):
    """The content of a `claims.lock`."""

    claims: dict[str, dict[Scale, Entry]] = Field(default_factory=dict)
    hash: str = ""

    def digest(self) -> str:
        """16 hex digits over everything but the hash itself."""
        return _digest(self)

    def entry(self, claim: str, scale: str) -> Entry | None:
        """The entry of a claim at a scale."""
        return self.claims.get(claim, {}).get(scale)  # type: ignore[call-overload,no-any-return]

    def with_entry(self, claim: str, scale: str, entry: Entry) -> "Lock":
        """This lock with one entry replaced."""
        return Lock.model_validate({"claims": self.claims | {claim: self.claims.get(claim, {}) | {scale: entry}}})

    def used_seeds(self, claim: Landmark, scale: str) -> set[int]:
        """Seeds on which this claim has been scored or calibrated, or another one about the same metric; and those on
        which its neighbours have been scored, for that has written its metric, too. Of a new claim also those on which
        they were calibrated."""
        entries = {name: found[scale] for name, found in self.claims.items() if scale in found}
        same = [one for name, one in entries.items() if name == claim.id or one.metric == metric_of(claim)]
        seals = [seal for entry in same or entries.values() for seal in (entry.seal, *entry.earlier) if seal]
        scored = {seed for entry in entries.values() for seed in entry.scored_seeds}
        return scored.union(*(seal.calibration_seeds for seal in seals))


def lock_path(replication: str) -> Path:
    """Where the lock of a replication lies."""
    return ROOT / "replications" / replication / "claims.lock"


def read_lock(replication: str) -> Lock:
    """The lock of a replication; empty if there is none. UserError if it was edited by hand."""
    path = lock_path(replication)
    return _checked(path, path.read_bytes()) if path.exists() else Lock()


@functools.cache
def _checked(path: Path, _content: bytes) -> Lock:
    """The lock in a file of this content, which a command reads for every claim."""
    try:
        lock = Lock.model_validate(read_json(path))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{_shown(path)} is damaged at '{place}'; restore it from git") from None
    for claim, scales in lock.claims.items():
        for entry in scales.values():
            if entry.seal and entry.seal.hash != entry.seal.digest():
                raise UserError(
                    f"{_shown(path)} was edited by hand: the seal of '{claim}' does not have its hash; restore it from "
                    "git"
                )
    if lock.hash != lock.digest():
        raise UserError(f"{_shown(path)} was edited by hand: its history does not have its hash; restore it from git")
    return lock


def write_lock(replication: str, lock: Lock) -> None:
    """Writes the lock of a replication."""
    whole = lock.model_copy(update={"hash": lock.digest()})
    write_json(lock_path(replication), whole.model_dump(mode="json"))


def metric_of(claim: Landmark) -> str:
    """Part and metric, by which a claim under a new name is known."""
    return f"{claim.part}.{claim.metric}"


def _digest(content: Strict) -> str:
    text = json.dumps(content.model_dump(mode="json", exclude={"hash"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
