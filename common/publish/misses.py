"""Why landmarks are not reproduced: by the effect itself, by a control, or because the two are too close."""

import re
from collections.abc import Sequence

from common.core.claims import Claim, ControlResult
from common.core.verdicts import Assertion

BOUND = re.compile(r"(>=|<=|in) \[?([^\s,\]]+)(?:, ([^\]]+)\])?")  # as a claim writes what it asserts
SHORT, EQUALLED, CLOSE = "bound missed", "a control reaches the bound", "a control is too close"
WIDE = "its own interval is too wide"
WORSE = f"{SHORT}; {EQUALLED}"


def bound_of(claim: Claim) -> Assertion | None:
    """What the claim asserts, read back from its words; None if it asserts nothing."""
    asserted = BOUND.fullmatch(claim.assertion or "")
    if asserted is None:
        return None
    kind, *ends = asserted.groups()
    first, last = (float(end) if end else None for end in ends)
    return Assertion(at_most=first) if kind == "<=" else Assertion(at_least=first, at_most=last)


def reaches(claim: Claim, found: float | None) -> bool:
    """Whether a number lies on the passing side of what the claim asserts."""
    bound = bound_of(claim)
    return bound is not None and found is not None and bound.holds(found)


def missed(claim: Claim) -> str:
    """Why a landmark is not reproduced. `CLOSE`: no control's value reaches the bound, but its interval does, or that
    of effect - control includes 0. `WIDE`: no control is to blame, the effect's interval includes `neutral`."""
    equalled = any(reaches(claim, control.value) for control in claim.controls)
    if not reaches(claim, claim.value):
        return WORSE if equalled else SHORT
    if equalled:
        return EQUALLED
    return CLOSE if any(_close(claim, control) for control in claim.controls) else WIDE


def _close(claim: Claim, control: ControlResult) -> bool:
    apart = control.difference
    includes_0 = apart is not None and apart.ci_low <= 0 <= apart.ci_high
    return includes_0 or reaches(claim, control.ci_low) or reaches(claim, control.ci_high)


def what_decided(claims: Sequence[Claim]) -> str:
    """The landmarks that are not reproduced, counted by reason."""
    reasons = [missed(claim) for claim in claims if claim.tier == "landmark" and claim.verdict == "not reproduced"]
    short, worse, equalled, close, wide = (reasons.count(one) for one in (SHORT, WORSE, EQUALLED, CLOSE, WIDE))
    reached = f" (a control reaches it in {worse})" if worse else ""
    return (
        f"Of the {len(reasons)} not reproduced, {short + worse} miss the bound{reached}; in {equalled} effect and "
        f"control both reach it; in {close} a control's interval does, or effect − control includes 0"
        f"{f'; in {wide} the interval of the effect itself is too wide' if wide else ''}."
    )
