"""`python -m common.engine.judged`: what holds so far in a run that was stopped, replication by replication.

Exit code 3 if a claim of a finished replication fails, as at the end of a whole run.
"""

import sys
from pathlib import Path

import tyro

from common.core.settings import replications
from common.core.verify import read_claims, summary
from common.engine.conclusion import CLAIMS_FAILED


def judged(scale: str = "laptop") -> int:
    """Prints the verdicts of every replication that has been judged, and names the others."""
    problems: list[str] = []
    for name in replications():
        path = Path("results", scale, name, "claims.json")
        if not path.exists():
            print(f"{name}: not finished")
            continue
        claims = read_claims(path)
        print(f"{name}: {summary(claims)}")
        problems += [claim.problem for claim in claims if claim.problem]
    for problem in problems:
        print(f"claim failed: {problem}", file=sys.stderr)
    return CLAIMS_FAILED if problems else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(judged))
