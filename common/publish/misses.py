"""Why landmarks are not reproduced: by the effect itself, by a control, or because the two are too close."""

import re
from collections.abc import Sequence

from common.core.claims import Claim
from common.core.verdicts import Assertion

BOUND = re.compile(r"(>=|<=|in) \[?([^\s,\]]+)(?:, ([^\]]+)\])?")  # as a claim writes what it asserts
SHORT, EQUALLED, CLOSE = "bound missed", "a control reaches the bound", "a control is too close"


def reaches(claim: Claim, found: float | None) -> bool:
    """Whether a number lies on the passing side of what the claim asserts."""
    asserted = BOUND.fullmatch(claim.assertion or "")
    if asserted is None or found is None:
        return False
    kind, *ends = asserted.groups()
    first, last = (float(end) if end else None for end in ends)
    bound = Assertion(at_most=first) if kind == "<=" else Assertion(at_least=first, at_most=last)
    return bound.holds(found)


def missed(claim: Claim) -> str:
    """Why a landmark is not reproduced. `CLOSE`: no control's value reaches the bound, but its interval does, or that
    of effect - control includes 0."""
    if not reaches(claim, claim.value):
        return SHORT
    return EQUALLED if any(reaches(claim, control.value) for control in claim.controls) else CLOSE


def what_decided(claims: Sequence[Claim]) -> str:
    """The landmarks that are not reproduced, counted by reason."""
    reasons = [missed(claim) for claim in claims if claim.tier == "landmark" and claim.verdict == "not reproduced"]
    short, equalled, close = (reasons.count(one) for one in (SHORT, EQUALLED, CLOSE))
    return (
        f"Of the {len(reasons)} not reproduced, {short} miss the bound; in {equalled} a control reaches it, too; in "
        f"{close} one is too close, by its interval or that of effect − control."
    )
