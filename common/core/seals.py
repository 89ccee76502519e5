"""Seals: what of a landmark is fixed before its scoring seeds are touched, and how later changes are recorded.

The judge compares a claim with its seal (`lock`). No change of bound, neutral value, role, metric, formulas, names of
controls, settings or seeds passes without a badge. Sizes of samples may differ by `TOLERANCE`. The sentence is not
sealed, nor is the code that measures: the record names its commit.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from common.core.claims import Amendment, Landmark, Sealed, load_claims
from common.core.errors import UserError
from common.core.lock import Entry, Lock, Seal, metric_of, read_lock
from common.core.metrics import Metric
from common.core.settings import Scale, load_replication, load_scale

SIZES = ("n", "count")  # sizes of samples that may be what is left of a draw, so they vary with the seeds
TOLERANCE = 0.25  # of a size; the sizes of draws stand in the settings and are compared exactly
LATE = "sealed"  # the field of the amendment that says: sealed after its scoring seeds had been used
CHECKED = "check"  # prefix of the sealed fields of a precondition; seals from before 30 November 2026 lack them
RETIRED = "tier"  # the field of the amendment that says: no landmark any more


def today() -> str:  # of a recording
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def definition_of(replication: str, claim: Landmark, scale: str) -> dict[str, Any]:
    """The sealed fields of a claim's entry in `claims.yaml`, those of its precondition, and the scoring seeds."""
    keys = {"assertion", "neutral", "controls", "part", "metric", "models", "role", "precondition"}
    content = claim.at(scale).model_dump(mode="json", include=keys)
    content["controls"] = sorted(content["controls"])
    checks = load_claims(replication) if claim.precondition else []
    for check in (one for one in checks if one.id == claim.precondition):
        content[CHECKED] = check.model_dump(mode="json", include={"assertion", "controls", "part", "metric", "models"})
    return content | {"scoring_seeds": load_scale(scale, replication).seeds, "judged": scale in claim.scales}


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

    An unchanged seal stays as it is. Where scoring seeds of the scale are in `used`, the entry keeps or gets its badge.
    The old seal then stays, with what has changed as amendments; a first seal says that it came late.

    Args:
        metrics: from calibration, by model.
    """
    seeds = load_scale(scale, replication)
    if old and old.seal and not old.amended and set(metrics) <= set(old.seal.measured):  # noqa: SIM102
        if not changes(replication, claim, scale, metrics, old):
            return old
    new = Seal(
        date=date,
        calibration_seeds=seeds.calibration_seeds,
        scoring_seeds=seeds.seeds,
        definition=definition_of(replication, claim, scale),
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
        return Entry(metric=metric_of(claim), seal=new, scored_seeds=scored, amended=[late])
    earlier = [*old.earlier, old.seal.replaced()] if old and old.seal else []
    return Entry(metric=metric_of(claim), seal=new, scored_seeds=scored, earlier=earlier)


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
    absent = tuple(f"{model}." for model in entry.seal.measured if model not in models)
    before = {field: value for field, value in standing(entry).items() if not field.startswith(absent)}
    after = {
        **flat(definition_of(replication, claim, scale)),
        **flat(settings_of(replication, claim, scale), "settings"),
        **{key: value for model in models for key, value in flat(measured_of(metrics[model]), model).items()},
    }
    after = as_sealed(after, before)
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


def standing(entry: Entry) -> dict[str, Any]:
    """The sealed fields as the amendments have left them, by dotted name; none without a seal."""
    if entry.seal is None:
        return {}
    fields = flat(entry.seal.definition) | flat(entry.seal.settings, "settings")
    for model, measured in entry.seal.measured.items():
        fields |= flat(measured, model)
    fields |= {one.field: one.after for one in entry.amended if one.field not in (LATE, RETIRED)}
    return {field: value for field, value in fields.items() if value is not None}


def as_sealed(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The present fields, without those of a precondition if the seal is from a time when they were not sealed."""
    old = not any(field.startswith(f"{CHECKED}.") for field in before)
    return {field: value for field, value in now.items() if not (old and field.startswith(f"{CHECKED}."))}


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{a: {b: 1}}` as `{'a.b': 1}`; keys that are null are left out."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            found |= flat(value, name)
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
    settings = load_replication(replication, scale).model_dump_json(exclude_none=True)
    return hashlib.sha256((json.dumps(shown) + settings).encode()).hexdigest()[:16]
