"""Step: the claims of all replications in one file."""

from pathlib import Path

from common.core.files import write_json
from common.core.step import Files, run_step
from common.core.verify import read_claims


class AllClaimsFiles(Files):
    each: list[Path]
    """`claims.json` of each replication"""
    claims: Path


def all_claims(files: AllClaimsFiles) -> None:
    """Writes the claims of all replications one after the other."""
    merged = [claim for path in files.each for claim in read_claims(path)]
    write_json(files.claims, [claim.model_dump(mode="json") for claim in merged])


if __name__ == "__main__":
    run_step(all_claims)
