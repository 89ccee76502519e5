"""`make freeze` and `make amend`: seals landmarks on their calibration, and gives the reasons of later changes.

`freeze` reads `results/<scale>-calibration` and writes `replications/<name>/claims.lock`. The launcher calls
`mark_scored` before a run on scoring seeds, and `record_amendments` after it, so that neither is left to memory.
"""

from pathlib import Path
from typing import cast

import tyro

from common.core.claims import Amendment, Claim, Landmark, load_claims
from common.core.errors import UserError
from common.core.lock import Entry, Lock, read_lock, write_lock
from common.core.metrics import Metric, read_metrics
from common.core.seals import (
    CHECKED,
    LATE,
    RETIRED,
    check_lock,
    definition_of,
    seal,
    settings_of,
    today,
)
from common.core.settings import Scale, load_scale, replications
from common.core.verdicts import require_evidence
from common.engine.config import Run, load_run
from common.engine.failure import as_command
from common.engine.known_sample import on_known_sample
from common.engine.plan import plan, refuse_copied


def freeze(scale: str = "laptop", name: str = "", claim: str = "") -> None:
    """Seals the landmarks of one replication, or of all, that this scale decides. Says of each what was done.

    With `claim`, that landmark of the replication alone: a new one needs no calibration of its neighbours.

    Raises:
        UserError: calibration is missing, out of date, lacks a metric, or does not carry what a landmark needs; or no
            such landmark.
    """
    run = load_run(scale, calibrate=True)
    if claim and not name:
        raise UserError("CLAIM names a landmark of one replication; say which, as in NAME=my_result CLAIM=my_landmark")
    for replication in [known(name)] if name else replications():
        check_lock(replication, scale, scored=False)
        claims = decided(replication, scale, claim)
        measured = {one.id: _calibrated(replication, one, run) for one in claims}
        _check_current(replication, scale, [path for one in claims for path in _paths(replication, one, run)])
        lock = read_lock(replication)
        for one in claims:
            old = lock.entry(one.id, scale)
            used = lock.used_seeds(one, scale)
            new = seal(replication, one, cast(Scale, scale), measured[one.id], old, used=used, date=today())
            if not new.amended:
                new = new.model_copy(update={"amended": inherited(lock, replication, one, scale)})
            lock = lock.with_entry(one.id, scale, new)
            print(_said(f"{replication}.{one.id}", scale, old, new, used))
        if claims:
            write_lock(replication, lock)
        elif name:
            print(f"{replication} has no landmark that scale {scale} decides; nothing to seal")


def landmarks(replication: str) -> list[Landmark]:
    """The landmarks of one replication."""
    return [claim for claim in load_claims(replication) if isinstance(claim, Landmark)]


def known(name: str) -> str:
    """The name of a replication. UserError if there is none of this name."""
    if name not in replications():
        raise UserError(f"unknown replication '{name}'; there is {', '.join(replications())}")
    return name


def decided(replication: str, scale: str, claim: str = "") -> list[Landmark]:
    """The landmarks that a scale decides, or of these the one of this id. UserError if there is no such."""
    claims = [one for one in landmarks(replication) if scale in one.scales]
    chosen = [one for one in claims if claim in ("", one.id)]
    if chosen or not claim:
        return chosen
    there = ", ".join(one.id for one in claims) or "none"
    raise UserError(f"{replication} has no landmark '{claim}' that scale {scale} decides; there is {there}")


def _paths(replication: str, claim: Landmark, run: Run) -> dict[Path, str]:
    """The metrics of the claim's part on calibration seeds, and of which model each is."""
    models = [one for one in claim.models if one in ("toy", *run.models)]
    return {Path(run.results, replication, model, claim.part, "metrics.json"): model for model in models}


def _check_current(replication: str, scale: str, paths: list[Path]) -> None:
    """UserError if sources, settings or seeds would make one of these calibrations anew."""
    folder = Path("results", f"{scale}-calibration", replication)
    refuse_copied(paths, folder, f"run `make calibrate NAME={replication} SCALE={scale}`")
    if paths and plan(*dict.fromkeys(map(str, paths)), config=[f"scale={scale}", "calibrate=1"]):
        raise UserError(
            f"the calibration of {replication} is of other sources, settings or seeds than the present ones; run "
            f"`make calibrate NAME={replication} SCALE={scale}` first"
        )


def _calibrated(replication: str, claim: Landmark, run: Run) -> dict[str, Metric]:
    """The claim's metric on calibration seeds, by model, checked for what a landmark must carry."""
    found = {}
    for path, model in _paths(replication, claim, run).items():
        if not path.exists():
            raise UserError(
                f"claim {replication}.{claim.id} has no calibration in {path}; run `make calibrate NAME={replication} "
                f"SCALE={run.scale}` first"
            )
        metrics = read_metrics(path)
        if claim.metric not in metrics:
            raise UserError(
                f"claim {replication}.{claim.id} names the metric '{claim.metric}', which {path} lacks; correct its "
                "claims.yaml, or calibrate again"
            )
        require_evidence(f"{replication}.{claim.id}", metrics[claim.metric], claim.controls)
        found[model] = metrics[claim.metric]
    return found


def _said(claim: str, scale: str, old: Entry | None, new: Entry, used: set[int]) -> str:
    if new.amended:
        seeds = ", ".join(map(str, sorted(used & set(load_scale(scale, claim.partition(".")[0]).seeds))))
        fields = ", ".join(sorted({one.field for one in new.amended}))
        if not used:
            return f"amended: {claim} keeps its badge ({fields}), because another scale has scored this very sample"
        return (
            f"amended: {claim} keeps its badge ({fields}), because it was scored on seeds {seeds} before; to seal it "
            f"clean, put unused seeds into config/scales/{scale}.yaml, calibrate and freeze again"
        )
    return f"{'already sealed' if new == old else 'sealed'}: {claim} at scale {scale}"


def inherited(lock: Lock, replication: str, claim: Landmark, scale: str) -> list[Amendment]:
    """The history of a claim at another scale that has scored on these seeds with equal sealed settings.

    A badge is not lost by sealing the same measurement once more under the name of another scale. What is changed
    between the two is an amendment, and so is a seal after a score that had none.
    """
    seeds, settings = set(load_scale(scale, replication).seeds), settings_of(replication, claim, scale)
    for other, entry in lock.claims.get(claim.id, {}).items():
        if other == scale or not seeds & set(entry.scored_seeds):
            continue
        if settings_of(replication, claim, other) != settings:
            continue
        if entry.seal is None:
            why = f"scale {other} had scored this very sample without a seal"
            return [*entry.amended, Amendment(date=today(), field=LATE, before=None, after=today(), why=why)]
        before, after = entry.seal.definition, definition_of(replication, claim, scale)
        unknown = {"judged", CHECKED} - ({CHECKED} & before.keys())
        changed = [key for key in after if key not in unknown and before.get(key) != after[key]]
        return [
            *entry.amended,
            *(Amendment(date=today(), field=key, before=before.get(key), after=after[key]) for key in changed),
        ]
    return []


def amend(name: str, claim: str, why: str) -> None:
    """Gives the reason of every recorded change of a claim that has none, or retires a claim that is gone.

    Raises:
        UserError: the reason is empty, the claim is not in the lock, or nothing waits for a reason.
    """
    if not why.strip():
        raise UserError('WHY is empty; say why the claim was changed, as in WHY="the old control was a shuffle"')
    lock = read_lock(known(name))
    if claim not in lock.claims:
        raise UserError(f"claims.lock of {name} has no claim '{claim}'; it has {', '.join(lock.claims) or 'none'}")
    gone = claim not in [one.id for one in landmarks(name)]
    done: list[str] = []
    for scale, entry in lock.claims[claim].items():
        amended = [one if one.why else one.model_copy(update={"why": why}) for one in entry.amended]
        done += [one.field for one in entry.amended if not one.why]
        if gone and not entry.retired:
            amended.append(Amendment(date=today(), field=RETIRED, before="landmark", after="retired", why=why))
            done.append(RETIRED)
        changed = {"amended": amended, "retired": why if gone else entry.retired}
        lock = lock.with_entry(claim, scale, entry.model_copy(update=changed))
    if not done:
        raise UserError(f"no change of {name}.{claim} waits for a reason")
    write_lock(name, lock)
    print(f"{'retired' if gone else 'reason recorded'}: {name}.{claim} ({', '.join(dict.fromkeys(done))})")


def mark_scored(replication: str, scale: str, seeds: list[int]) -> None:
    """Records that the landmarks of a scale are about to be scored on these seeds, sealed or not."""
    lock = before = read_lock(replication)
    for claim in decided(replication, scale):
        entry = lock.entry(claim.id, scale) or Entry(metric=f"{claim.part}.{claim.metric}")
        scored = sorted({*entry.scored_seeds, *seeds})
        lock = lock.with_entry(claim.id, scale, entry.model_copy(update={"scored_seeds": scored}))
    if lock != before:
        write_lock(replication, lock)


def record_amendments(scale: str, claims: list[Claim]) -> list[str]:
    """Writes amendments that the judge found into the locks. One line for each claim, which asks for the reason. A
    claim that was taken from the scale, on record, has nothing more to explain there."""
    locks: dict[str, Lock] = {}
    said = []
    for claim in (one for one in claims if one.tier == "landmark"):
        replication, name = claim.replication, claim.id.removeprefix(f"{claim.replication}.")
        lock = locks.get(replication) or read_lock(replication)
        entry = lock.entry(name, scale)
        new = [] if entry is None else _unrecorded(claim.amended, entry.amended)
        if entry is not None and (late := on_known_sample(claim, entry, scale)):
            new.append(late)
        if entry is None or not new or (_taken_away(entry) and all(one.field != "judged" for one in new)):
            continue
        amended = [*entry.amended, *new]
        locks[replication] = lock.with_entry(name, scale, entry.model_copy(update={"amended": amended}))
        said += [f"amended: {claim.id}: {one.why}" for one in new if one.why]
        if fields := ", ".join(f"{one.field} ({one.before} -> {one.after})" for one in new if not one.why):
            said.append(
                f"amended: {claim.id} has changed since it was sealed: {fields}; give the reason with "
                f'`make amend NAME={replication} CLAIM={name} WHY="..."`'
            )
    for replication, lock in locks.items():
        write_lock(replication, lock)
    return said


def _taken_away(entry: Entry) -> bool:
    """Whether the last recorded change of what the scale decides was that it no longer decides this claim."""
    return [one.after for one in entry.amended if one.field == "judged"][-1:] == [False]


def _unrecorded(judged: list[Amendment], known: list[Amendment]) -> list[Amendment]:
    """What the judge found beyond the history that it was given, and that nobody has recorded since."""
    history = [one.model_copy(update={"why": None}) for one in known]
    while judged and history and judged[0].model_copy(update={"why": None}) == history[0]:
        judged, history = judged[1:], history[1:]
    return [one for one in judged if not _recorded(one, known)]


def _recorded(amendment: Amendment, known: list[Amendment]) -> bool:
    """Whether the last recorded change of this field led to the same value."""
    last = [one for one in known if one.field == amendment.field][-1:]
    return bool(last) and last[0].after == amendment.after


if __name__ == "__main__":
    as_command(lambda: tyro.extras.subcommand_cli_from_dict({"freeze": freeze, "amend": amend}))
