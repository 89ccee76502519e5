"""`make fresh SEEDS=5,6,7`: how far verdicts on seeds that nobody has looked at agree with the scored ones."""

import contextlib
from pathlib import Path

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import read_json
from common.core.verdicts import LEAST_SEEDS
from common.core.verify import read_claims
from common.engine.config import Run
from common.publish.claims_page import value


def agreement(fresh: list[Claim], run: Run, root: Path = Path()) -> str:
    """How many landmarks have the scored verdict on fresh seeds, and both values where the verdicts differ.

    The scored verdicts are those of `results/<scale>/`, or of the records in `figures/` for claims that are not there.
    Files of another version count as missing.
    """
    scored = _scored(run.scale, root)
    landmarks = [claim for claim in fresh if claim.tier == "landmark"]
    judged = [claim for claim in landmarks if claim.value is not None]
    pairs = [(claim, scored[claim.id, claim.model]) for claim in judged if (claim.id, claim.model) in scored]
    differing = [(new, old) for new, old in pairs if new.verdict != old.verdict]
    seeds = ", ".join(map(str, run.seeds))
    lines = [f"Fresh seeds {seeds}: {len(pairs) - len(differing)} of {len(pairs)} landmark verdicts agree."]
    for new, old in differing:
        lines.append(f"  {new.id} on {new.model}: {new.verdict} {value(new)}, scored {old.verdict} {value(old)}")
    for claim in landmarks:
        if claim.value is None and (claim.id, claim.model) in scored:
            lines.append(f"  {claim.id} on {claim.model}: not judged here ({claim.reason}), scored otherwise.")
    if missing := len(judged) - len(pairs):
        lines.append(
            f"  {missing} landmarks have no scored verdict at scale {run.scale} to compare with; "
            f"`make SCALE={run.scale}` scores them."
        )
    if len(run.seeds) < LEAST_SEEDS:
        lines.append(
            f"  {len(run.seeds)} seeds are fewer than the {LEAST_SEEDS} that a scored landmark needs, so intervals "
            "over seeds are wider here."
        )
    return "\n".join(lines)


def _scored(scale: str, root: Path) -> dict[tuple[str, str], Claim]:
    """The scored claims by id and model. The latest results of a replication come before those of a whole run, and
    these before records of the same scale."""
    found: dict[tuple[str, str], Claim] = {}
    recorded = root / "figures" / "records.json"
    known = read_json(recorded) if recorded.exists() else {}
    of_scale = {name for name, record in known.items() if record["scale"] == scale}
    records = [root / "figures" / "claims.json", root / "results" / scale / "claims.json"]
    for path in [*records, *sorted((root / "results" / scale).glob("*/claims.json"))]:
        with contextlib.suppress(UserError):
            for claim in read_claims(path):
                if claim.value is not None and (path != records[0] or claim.replication in of_scale):
                    found[claim.id, claim.model] = claim
    return found
