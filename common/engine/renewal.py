"""`make renew`: seals scored landmarks anew, as they stand, for seeds on which nothing was measured."""

from typing import Any

import tyro

from common.core.claims import Landmark
from common.core.errors import UserError
from common.core.lock import Entry, Seal, read_lock, write_lock
from common.core.seals import as_sealed, check_lock, definition_of, flat, settings_of, standing, today
from common.core.settings import load_scale
from common.engine.failure import as_command
from common.engine.freeze import decided, known


def renew(name: str, scale: str = "full", claim: str = "") -> None:
    """Seals the scored landmarks of one replication as they stand now, for scoring seeds on which none was measured.

    Nothing but the seeds may have changed since the last score, so no calibration is needed. The seeds of that score
    are the new seal's calibration. Badges end here; the old seal is kept under `earlier`. With `claim`, that landmark
    alone.

    Raises:
        UserError: a landmark was never scored, has changed since, has a change without a reason, or has used the seeds;
            or there is no such landmark.
    """
    check_lock(known(name), scale, scored=False)
    lock, seeds = read_lock(name), load_scale(scale, name).seeds
    for one in decided(name, scale, claim):
        said, entry = f"{name}.{one.id}", lock.entry(one.id, scale)
        if entry and entry.seal and not entry.amended and entry.seal.scoring_seeds == seeds:
            print(f"already sealed: {said} at scale {scale}")
            continue
        if entry is None or entry.seal is None or not entry.scored_seeds:
            raise UserError(
                f"{said} was never scored at scale {scale}; seal it with `make calibrate` and `make freeze`"
            )
        if silent := [change.field for change in entry.amended if not change.why]:
            raise UserError(f"{said} was changed in {silent[0]} without a reason; give it with `make amend` first")
        if used := sorted(lock.used_seeds(one, scale) & set(seeds)):
            raise UserError(f"{said} has used seed {used[0]}; put unused seeds into config/scales/{scale}.yaml")
        new = _renewed(name, one, scale, entry.seal, standing(entry))
        earlier = [*entry.earlier, entry.seal.replaced()]
        sealed = Entry(metric=entry.metric, seal=new, scored_seeds=entry.scored_seeds, earlier=earlier)
        lock = lock.with_entry(one.id, scale, sealed)
        print(f"sealed: {said} at scale {scale}, {len(entry.amended)} amendments behind it")
    write_lock(name, lock)


def check_renewed(name: str, scale: str) -> None:
    """UserError before scoring on unused seeds, where a landmark is sealed for others and nothing else has changed:
    scored, they would be used, and the landmark would bear a badge."""
    lock, seeds = read_lock(name), load_scale(scale, name).seeds
    for claim in decided(name, scale):
        entry = lock.entry(claim.id, scale)
        if (
            entry is None
            or entry.seal is None
            or entry.seal.scoring_seeds == seeds
            or set(seeds) & set(entry.scored_seeds)
        ):
            continue
        if not entry.amended and _changed(name, claim, scale, entry.seal, standing(entry)) is None:
            raise UserError(
                f"{name}.{claim.id} is sealed at scale {scale} for other seeds than config/scales/{scale}.yaml has; "
                f"run `make renew SCALE={scale} NAME={name}` before they are scored"
            )


def _changed(name: str, claim: Landmark, scale: str, old: Seal, before: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field of claim or settings, but for the scoring seeds, that is another now, before and after."""
    of_models = tuple(f"{model}." for model in old.measured)
    last = {key: value for key, value in before.items() if not key.startswith(of_models)}
    now = as_sealed(flat(definition_of(name, claim, scale)) | flat(settings_of(name, claim, scale), "settings"), last)
    for field in sorted((last.keys() | now.keys()) - {"scoring_seeds"}):
        if last.get(field) != now.get(field):
            return field, last.get(field), now.get(field)
    return None


def _renewed(name: str, claim: Landmark, scale: str, old: Seal, before: dict[str, Any]) -> Seal:
    """The seal of what the last score measured. UserError if claim or settings are others now."""
    if change := _changed(name, claim, scale, old, before):
        field, last, now = change
        raise UserError(
            f"{name}.{claim.id} has changed in {field} since its last score ({last} -> {now}); seal it with "
            "`make calibrate` and `make freeze`"
        )
    measured: dict[str, dict[str, Any]] = {}
    for model, content in old.measured.items():
        own = {key.removeprefix(f"{model}."): one for key, one in before.items() if key.startswith(f"{model}.")}
        grouped = {
            key: {field.removeprefix(f"{key}."): one for field, one in own.items() if field.startswith(f"{key}.")}
            for key in ("uncertainty", "controls")
        }
        measured[model] = {key: own.get(key) for key in content} | grouped
    seeds = load_scale(scale, name).seeds
    new = Seal(
        date=today(),
        calibration_seeds=before.get("scoring_seeds", old.scoring_seeds),
        scoring_seeds=seeds,
        definition=definition_of(name, claim, scale),
        settings=settings_of(name, claim, scale),
        measured=measured,
        hash="",
    )
    return new.model_copy(update={"hash": new.digest()})


if __name__ == "__main__":
    as_command(lambda: tyro.cli(renew))
