"""Step: judges the claims of one replication.

A failed claim is not a failed job: everything is written, and the last line of `make` sets the exit code from
`claims.json` (see `common.engine.launch`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.core.claims import (
    Amendment,
    Check,
    Claim,
    ControlResult,
    Definition,
    Landmark,
    Planned,
    Sealed,
    load_claims,
    load_planned,
)
from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.lock import read_lock
from common.core.metrics import Estimate, Metric, read_metrics
from common.core.seals import sealed_for, status
from common.core.settings import Kind, Scale, Strict
from common.core.statistics import LEVEL, holm
from common.core.step import Files, run_step
from common.core.verdicts import OUTCOMES, judge_check, judge_landmark, require_evidence, strongest_control


class VerifyFiles(Files):
    metrics: list[Path]
    """of all parts; a claim names its part"""
    definitions: Path
    """`claims.yaml`"""
    claims: Path
    """`claims.json`, judged"""


class Judging(Strict):
    """One replication in one run; `models` are the language models of the run."""

    name: str
    scale: Scale
    results: Path
    models: list[str]
    kind: Kind = "scored"


def planned(replication: str, claim: Planned) -> Claim:
    """The entry of `claims.json` of a planned claim."""
    return Claim(
        id=f"{replication}.{claim.id}",
        replication=replication,
        model=", ".join(claim.models) or "toy",
        verdict=None,
        reason=f"planned: needs {claim.needs}",
        **claim.model_dump(include={"tier", "statement", "counterpart", "source", "paper_value", "needs"}),
    )


def evaluate(
    replication: str,
    definition: Definition,
    model: str,
    metrics: Mapping[str, Metric] | str,
    *,
    scale: str = "laptop",
    sealed: Sealed | None = None,
    amended: list[Amendment] | None = None,
    few_seeds: bool = False,
) -> Claim:
    """The verdict on one landmark or check.

    Args:
        metrics: the content of its part, or the reason why it was not run.
        scale: of the run; a check may be known to fail at one.
        sealed: its seal at this scale.
        amended: what has changed since it was sealed; an amended claim cannot be required.
        few_seeds: True in fresh runs, which may have fewer seeds than a landmark otherwise needs.

    Raises:
        UserError: the part lacks the metric (a typing slip must not look like a skip), or a landmark's metric lacks
            what `require_evidence` asks for.
    """
    name = f"{replication}.{definition.id}"
    record: dict[str, Any] = {
        "id": name,
        "replication": replication,
        "model": model,
        "assertion": str(definition.assertion),
        **definition.model_dump(
            include={"tier", "statement", "counterpart", "source", "paper_value", "part", "metric"}
        ),
    }
    if isinstance(definition, Landmark):
        record |= definition.model_dump(
            include={"headline", "neutral", "role", "expected_verdict", "tolerated_verdicts"}
        )
        record |= {"sealed": sealed, "amended": amended or []}
        record["effective_role"] = definition.role if sealed and not amended else "reported"
    else:
        record["expected_verdict"] = "fails" if scale in definition.known_failures else "holds"
    if isinstance(metrics, str):
        absent = [ControlResult(name=control) for control in definition.controls]
        return Claim(**record, controls=absent, verdict="not run here", reason=metrics)
    if definition.metric not in metrics:
        raise UserError(
            f"claim {name} names the metric '{definition.metric}', which part '{definition.part}' lacks; "
            f"correct replications/{replication}/claims.yaml or the step that measures it"
        )
    effect = metrics[definition.metric]
    if isinstance(definition, Landmark):
        require_evidence(name, effect, definition.controls, few_seeds=few_seeds)
        verdict, reason = judge_landmark(definition.assertion, definition.neutral, effect)
    else:
        listed = [effect.control(control) for control in definition.controls]
        verdict, reason = judge_check(definition.assertion, effect, listed)  # type: ignore[assignment]
    controls = [effect.control(control) for control in definition.controls]
    return Claim(
        **record,
        **effect.model_dump(include={"value", "ci_low", "ci_high", "n", "unit", "uncertainty", "per_seed"}),
        controls=[
            ControlResult(
                name=control.name,
                value=control.value,
                ci_low=control.ci_low,
                ci_high=control.ci_high,
                fails=definition.assertion.fails(control),
                difference=control.difference,
            )
            for control in controls
        ],
        strongest_control=strongest_control(definition.assertion, controls).name if controls else None,
        verdict=verdict,
        reason=reason,
    )


def verify(files: VerifyFiles, settings: Judging) -> None:
    """Judges every claim of one replication from its metrics and writes `claims.json`."""
    judged = verify_replication(settings.name, settings.scale, settings.models, settings.results, settings.kind)
    write_json(files.claims, [claim.model_dump(mode="json") for claim in judged])
    for claim in judged:
        print(f"{claim.verdict}: {claim.id} on {claim.model} ({claim.reason})")


def verify_replication(
    replication: str, scale: str, models: list[str], results: Path, kind: Kind = "scored"
) -> list[Claim]:
    """Judges every claim of one replication from the metrics below `results/<replication>/`.

    `models` are the language models of this run; claims on the model `toy` always run. Seals do not count in runs on
    calibration seeds. Planned claims come last.
    """
    definitions, lock = load_claims(replication), read_lock(replication)
    judged: dict[tuple[str, str], Claim] = {}
    for tier in (Check, Landmark):  # checks first: some are preconditions
        for definition in (one for one in definitions if isinstance(one, tier)):
            found: dict[str, Mapping[str, Metric] | str] = {}
            for model in definition.models:
                if scale not in definition.scales:
                    found[model] = f"needs scale {' or '.join(definition.scales)}; this is {scale}"
                elif model not in ("toy", *models):
                    found[model] = f"model {model} is not part of this run"
                else:
                    unmet = _unmet(definition, model, judged)
                    found[model] = unmet or _metrics_of(replication, definition, results / replication / model)
            entry, amended = None, list[Amendment]()
            if isinstance(definition, Landmark) and kind != "calibration":
                measured = {
                    model: metrics[definition.metric]
                    for model, metrics in found.items()
                    if not isinstance(metrics, str) and definition.metric in metrics
                }
                entry, amended = status(replication, definition, scale, measured, lock, fresh=kind == "fresh")
            for model, metrics in found.items():
                judged[definition.id, model] = evaluate(
                    replication,
                    definition.at(scale) if isinstance(definition, Landmark) else definition,
                    model,
                    metrics,
                    scale=scale,
                    sealed=sealed_for(entry, model),
                    amended=amended,
                    few_seeds=kind == "fresh",
                )
    ordered = [judged[definition.id, model] for definition in definitions for model in definition.models]
    return ordered + [planned(replication, claim) for claim in load_planned(replication)]


def _unmet(definition: Definition, model: str, judged: Mapping[tuple[str, str], Claim]) -> str | None:
    """Why a landmark is not judged: its precondition fails, or was not judged, on this model; or None."""
    if not isinstance(definition, Landmark) or definition.precondition is None:
        return None
    checks = {of: claim for (name, of), claim in judged.items() if name == definition.precondition}
    for claim in [checks[model]] if model in checks else checks.values():
        if claim.verdict != "holds":
            return f"its precondition '{definition.precondition}' on {claim.model}: {claim.verdict} ({claim.reason})"
    return None


def _metrics_of(replication: str, definition: Definition, folder: Path) -> Mapping[str, Metric]:
    """The metrics of the part that a claim names. UserError naming the parts that there are."""
    path = folder / definition.part / "metrics.json"
    if not path.exists() and (parts := sorted(file.parent.name for file in folder.glob("*/metrics.json"))):
        raise UserError(
            f"claim {replication}.{definition.id} names the part '{definition.part}', which does not exist; there is "
            f"{', '.join(parts)}; correct replications/{replication}/claims.yaml"
        )
    return read_metrics(path)


def read_claims(path: Path) -> list[Claim]:
    """The content of a `claims.json`. UserError if it is missing, damaged or of another version."""
    content = read_json(path)
    try:
        return [Claim.model_validate(item) for item in content]
    except (TypeError, ValidationError):
        raise UserError(f"{path} is damaged or of another version; delete it and run `make resume`") from None


NOT_RUN = "not run here"


def significance(claims: Sequence[Claim]) -> str:
    """`38 of 40 differences significant after Holm's correction`, over all differences of landmarks; or nothing. One
    that points away from the passing side does not count."""
    found = [(one.difference, claim) for claim in claims if claim.tier == "landmark"
             for one in claim.controls if one.difference]  # fmt: skip
    tested = holm([difference for difference, _ in found], [_degrees(claim) for _, claim in found])
    count = sum(p < 1 - LEVEL and _toward(*one) for p, one in zip(tested, found, strict=True))
    return f"{count} of {len(found)} differences significant after Holm's correction" if found else ""


def _degrees(claim: Claim) -> float:
    """Degrees of freedom behind the intervals of a claim: of seeds, or of models whose items are resampled within them,
    one less than there are; of other resamples no limit."""
    unit = claim.uncertainty.unit if claim.uncertainty else ""
    if claim.uncertainty and unit == "seeds":
        return float(claim.uncertainty.count - 1)
    return float(len(claim.per_seed) - 1) if claim.per_seed and unit.endswith(" of models") else math.inf


def _toward(difference: Estimate, claim: Claim) -> bool:
    """Whether effect - control points to the passing side; a band has two sides."""
    sign = {">": 1, "<": -1}.get((claim.assertion or "")[:1])
    return sign is None or sign * difference.value > 0


def overview(claims: Sequence[Claim]) -> str:
    """What all claims of a run together give: the summary, and what Holm's correction leaves."""
    return "; ".join(filter(None, (summary(claims), significance(claims))))


def summary(claims: Sequence[Claim]) -> str:
    """`12 of 13 landmarks reproduced, 1 not reproduced, 3 not run here; 20 of 21 checks hold; 1 amended; 2 planned`.
    The share is of those that have a verdict."""
    parts = []
    if landmarks := Counter[str](claim.verdict or "" for claim in claims if claim.tier == "landmark"):
        others = [f"{landmarks[verdict]} {verdict}" for verdict in (*OUTCOMES[1:], NOT_RUN) if landmarks[verdict]]
        judged = landmarks.total() - landmarks[NOT_RUN]
        parts.append(", ".join([f"{landmarks['reproduced']} of {judged} landmarks reproduced", *others]))
    if checks := [claim for claim in claims if claim.tier == "check" and claim.verdict != NOT_RUN]:
        parts.append(f"{sum(claim.verdict == 'holds' for claim in checks)} of {len(checks)} checks hold")
    if amended := sum(bool(claim.amended) for claim in claims):
        parts.append(f"{amended} amended")
    if waiting := sum(claim.tier == "planned" for claim in claims):
        parts.append(f"{waiting} planned")
    return "; ".join(parts)


if __name__ == "__main__":
    run_step(verify)
