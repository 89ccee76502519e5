"""Whether a landmark that was sealed for unused seeds was scored on a sample that these seeds do not draw.

Some measurements rest on fixed texts or weights, so that other seeds give the same value again. Such a claim is not
scored on anything new, and a new seal must not take its badge away.
"""

import math

from common.core.claims import Amendment, Claim
from common.core.files import read_json
from common.core.lock import Entry
from common.core.seals import LATE, today
from common.core.settings import ROOT, load_scale
from common.core.verify import read_claims
from common.publish.earlier import Triple, otherwise_by_seed, same_number, tells, triple


def on_known_sample(claim: Claim, entry: Entry, scale: str) -> Amendment | None:
    """The badge of a claim whose value is that of its record on other seeds of this scale; None for all others. A value
    that recurs while no control recurs, or as the mean of other values, is a coincidence, as shares of few items have.
    """
    records, kept = ROOT / "figures" / "records.json", ROOT / "figures" / "claims.json"
    if claim.value is None or entry.seal is None or any(one.field == LATE for one in entry.amended):
        return None
    record = read_json(records).get(claim.replication) if records.exists() and kept.exists() else None
    if not record or record["scale"] != scale or set(record["seeds"]) & set(load_scale(scale, claim.replication).seeds):
        return None
    before = next((one for one in read_claims(kept) if (one.id, one.model) == (claim.id, claim.model)), None)
    if before is None or not same_number(triple(claim), triple(before)):
        return None
    if _drawn(claim, before) or otherwise_by_seed(claim.per_seed, before.per_seed):
        return None
    why = f"its value is that of seeds {', '.join(map(str, record['seeds']))}: seeds do not draw its sample"
    return Amendment(date=today(), field=LATE, before=None, after=today(), why=why)


def _drawn(claim: Claim, before: Claim) -> bool:
    """Whether every control has another number than before. Controls at 0 and 1 tell nothing, nor do those that are
    the same in every seed."""
    earlier = {one.name: triple(one.model_dump()) for one in before.controls}
    pairs = [(triple(one.model_dump()), earlier[one.name]) for one in claim.controls if one.name in earlier]
    telling = [pair for pair in pairs if all(tells(one) and not _constant(one) for one in pair)]
    return bool(telling) and not any(same_number(*pair) for pair in telling)


def _constant(one: Triple) -> bool:
    return math.isclose(one[1], one[2])  # type: ignore[arg-type]
