"""Seals: what of a landmark is fixed before its scoring seeds are touched, and how later changes are recorded.

`replications/<name>/claims.lock` is written by the tools alone. For each landmark and scale it holds the sealed fields
(bound, neutral, role, metric, formula, controls, n, settings, seeds), their hash, the seeds on which the claim has been
scored, and every amendment. The judge compares, so no change passes without a badge.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from common.core.claims import Amendment, Landmark, Sealed, load_claims
from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.metrics import Metric
from common.core.settings import ROOT, Scale, Strict, load_replication, load_scale

SIZES = ("n", "count")  # sizes of samples that may be what is left of a draw, so they vary with the seeds
TOLERANCE = 0.25  # of a size; the sizes of draws stand in the settings and are compared exactly
LATE = "sealed"  # the field of the amendment that says: sealed after its scoring seeds had been used
RETIRED = "tier"  # the field of the amendment that says: no landmark any more


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
        text = json.dumps(self.model_dump(mode="json", exclude={"hash"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Entry(Strict):
    """One landmark at one scale. `seal` is null for a claim that was scored before it was sealed."""

    metric: str = Field(description="part and metric: a claim under a new name inherits the seeds of the old one")
    seal: Seal | None = None
    scored_seeds: list[int] = Field(default_factory=list)
    amended: list[Amendment] = Field(default_factory=list)
    retired: str | None = Field(default=None, description="why it is no longer a landmark")
    earlier: list[Seal] = Field(default_factory=list, description="seals that this one has replaced")


class Lock(Strict):
    """The content of a `claims.lock`."""

    claims: dict[str, dict[Scale, Entry]] = Field(default_factory=dict)

    def entry(self, claim: str, scale: str) -> Entry | None:
        """The entry of a claim at a scale."""
        return self.claims.get(claim, {}).get(scale)  # type: ignore[call-overload,no-any-return]

    def with_entry(self, claim: str, scale: str, entry: Entry) -> "Lock":
        """This lock with one entry replaced."""
        return Lock.model_validate({"claims": self.claims | {claim: self.claims.get(claim, {}) | {scale: entry}}})

    def used_seeds(self, claim: Landmark, scale: str) -> set[int]:
        """Seeds on which this claim, or another one about the same metric, has been scored or calibrated."""
        entries = {name: found[scale] for name, found in self.claims.items() if scale in found}
        same = [one for name, one in entries.items() if name == claim.id or one.metric == _metric(claim)]
        seals = [seal for entry in same for seal in (entry.seal, *entry.earlier) if seal]
        scored = {seed for entry in same for seed in entry.scored_seeds}
        return scored.union(*(seal.calibration_seeds for seal in seals))


def lock_path(replication: str) -> Path:
    """Where the lock of a replication lies."""
    return ROOT / "replications" / replication / "claims.lock"


def read_lock(replication: str) -> Lock:
    """The lock of a replication; empty if there is none. UserError if it was edited by hand."""
    path = lock_path(replication)
    if not path.exists():
        return Lock()
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
    return lock


def write_lock(replication: str, lock: Lock) -> None:
    """Writes the lock of a replication."""
    write_json(lock_path(replication), lock.model_dump(mode="json"))


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _metric(claim: Landmark) -> str:
    return f"{claim.part}.{claim.metric}"


def today() -> str:  # of a recording
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def definition_of(claim: Landmark, scale: str) -> dict[str, Any]:
    """The sealed fields of a claim's entry in `claims.yaml`, and the scoring seeds."""
    keys = {"assertion", "neutral", "controls", "part", "metric", "models", "role", "precondition"}
    content = claim.at(scale).model_dump(mode="json", include=keys)
    content["controls"] = sorted(content["controls"])
    return content | {"scoring_seeds": load_scale(scale).seeds, "judged": scale in claim.scales}


def settings_of(replication: str, claim: Landmark, scale: str) -> dict[str, Any]:
    """The blocks of `config.yaml` that count for a claim, at this scale. UserError for a block that does not exist."""
    blocks = load_replication(replication, scale).model_dump(mode="json")
    if unknown := sorted(set(claim.settings or []) - set(blocks)):
        raise UserError(
            f"claim {replication}.{claim.id} seals the settings '{unknown[0]}', which do not exist; there is "
            f"{', '.join(blocks)}"
        )
    return {key: value for key, value in blocks.items() if claim.settings is None or key in claim.settings}


def measured_of(metric: Metric) -> dict[str, Any]:
    """The sealed fields of a measured metric."""
    return {
        "formula": metric.formula,
        "unit": metric.unit,
        "n": metric.n,
        "uncertainty": metric.uncertainty.model_dump() if metric.uncertainty else None,
        "controls": {control.name: control.formula for control in metric.controls},
    }


def seal(
    replication: str,
    claim: Landmark,
    scale: Scale,
    metrics: Mapping[str, Metric],
    old: Entry | None,
    *,
    used: set[int],
    date: str,
) -> Entry:
    """The entry with a new seal.

    An unchanged seal stays as it is. Where scoring seeds of the scale are in `used`, the entry keeps or gets its badge:
    the old seal stays with what has changed as amendments, and a first seal says that it came late.

    Args:
        metrics: from calibration, by model.
    """
    seeds = load_scale(scale)
    if old and old.seal and not old.amended and set(metrics) <= set(old.seal.measured):  # noqa: SIM102
        if not changes(replication, claim, scale, metrics, old):
            return old
    new = Seal(
        date=date,
        calibration_seeds=seeds.calibration_seeds,
        scoring_seeds=seeds.seeds,
        definition=definition_of(claim, scale),
        settings=settings_of(replication, claim, scale),
        measured={model: measured_of(metric) for model, metric in metrics.items()},
        hash="",
    )
    new = new.model_copy(update={"hash": new.digest()})
    scored = old.scored_seeds if old else []
    if set(seeds.seeds) & used:
        if old and old.seal:
            found = changes(replication, claim, scale, metrics, old, date=date)
            return old.model_copy(update={"amended": [*old.amended, *found], "retired": None})
        late = Amendment(date=date, field=LATE, before=None, after=date, why="its scoring seeds had been used before")
        return Entry(metric=_metric(claim), seal=new, scored_seeds=scored, amended=[late])
    earlier = [*old.earlier, old.seal] if old and old.seal else []
    return Entry(metric=_metric(claim), seal=new, scored_seeds=scored, earlier=earlier)


def changes(
    replication: str,
    claim: Landmark,
    scale: str,
    metrics: Mapping[str, Metric],
    entry: Entry,
    *,
    fresh: bool = False,
    date: str | None = None,
) -> list[Amendment]:
    """What differs from the seal and is not recorded yet, as amendments.

    Args:
        metrics: of the claim, by model; models that were not sealed are left out.
        fresh: True in runs on fresh seeds, where sizes of samples do not count: they may be numbers of seeds.
        date: of recording; today by default.
    """
    if entry.seal is None:
        return []
    models = [model for model in metrics if model in entry.seal.measured]
    before = {
        **_flat(entry.seal.definition),
        **_flat(entry.seal.settings, "settings"),
        **{key: value for model in models for key, value in _flat(entry.seal.measured[model], model).items()},
    }
    absent = tuple(f"{model}." for model in entry.seal.measured if model not in models)
    for amendment in entry.amended:
        if amendment.field not in (LATE, RETIRED) and not amendment.field.startswith(absent):
            before[amendment.field] = amendment.after
    after = {
        **_flat(definition_of(claim, scale)),
        **_flat(settings_of(replication, claim, scale), "settings"),
        **{key: value for model in models for key, value in _flat(measured_of(metrics[model]), model).items()},
    }
    found = []
    for field in sorted(before.keys() | after.keys()):
        a, b = before.get(field), after.get(field)
        size = field.rpartition(".")[2] in SIZES and not field.startswith("settings.")
        if size and isinstance(a, int) and isinstance(b, int):
            same = fresh or abs(a - b) <= TOLERANCE * max(a, b)
        else:
            same = a == b
        if not same:
            found.append(Amendment(date=date or today(), field=field, before=a, after=b))
    return found


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{a: {b: 1}}` as `{'a.b': 1}`; keys that are null are left out."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            found |= _flat(value, name)
        elif value is not None:
            found[name] = value
    return found


def status(
    replication: str, claim: Landmark, scale: str, metrics: Mapping[str, Metric], lock: Lock, *, fresh: bool = False
) -> tuple[Entry | None, list[Amendment]]:
    """The entry of a claim with all its amendments: those recorded, then those found now."""
    entry = lock.entry(claim.id, scale)
    if entry is None:
        return None, []
    return entry, [*entry.amended, *changes(replication, claim, scale, metrics, entry, fresh=fresh)]


def sealed_for(entry: Entry | None, model: str) -> Sealed | None:
    """The seal of a claim on one model, as `claims.json` shows it."""
    if entry is None or entry.seal is None or model not in entry.seal.measured:
        return None
    return Sealed(date=entry.seal.date, hash=entry.seal.hash, seeds=entry.seal.calibration_seeds)


def check_lock(replication: str, scale: str, *, scored: bool) -> None:
    """UserError for a lock that seals a claim which is no landmark any more; and, before scoring, for a required
    landmark without a seal."""
    lock = read_lock(replication)
    landmarks = {claim.id: claim for claim in load_claims(replication) if isinstance(claim, Landmark)}
    for name, entries in lock.claims.items():
        if name not in landmarks and not all(entry.retired for entry in entries.values()):
            raise UserError(
                f"claims.lock of {replication} seals '{name}', which is no landmark of its claims.yaml; restore the "
                f'claim, or retire it with `make amend NAME={replication} CLAIM={name} WHY="..."`'
            )
    for claim in landmarks.values():
        entry = lock.entry(claim.id, scale)
        unsealed = entry is None or entry.seal is None
        if scored and claim.role == "required" and scale in claim.scales and unsealed:
            chosen = f"NAME={replication} SCALE={scale}"
            raise UserError(
                f"claim {replication}.{claim.id} is required but not sealed at scale {scale}; run "
                f"`make calibrate {chosen}` and `make freeze {chosen}` before it is scored, or make it reported"
            )


def state(replication: str, scale: str) -> str:
    """16 hex digits that change when seals, reasons or sealed settings do: then the claims are judged anew."""
    lock = read_lock(replication)
    shown = [
        (name, entry.seal and entry.seal.hash, entry.retired, [one.model_dump() for one in entry.amended if one.why])
        for name, entries in sorted(lock.claims.items())
        for at, entry in entries.items()
        if at == scale
    ]
    settings = load_replication(replication, scale).model_dump_json()
    return hashlib.sha256((json.dumps(shown) + settings).encode()).hexdigest()[:16]
