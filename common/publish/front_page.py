"""Collects what the front page of the report says: verdicts, failures, cost and provenance of a run."""

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from common.core.claims import Claim, verdicts
from common.core.errors import UserError
from common.core.files import read_json
from common.core.verify import read_claims
from common.publish.claims_page import by_replication
from common.publish.pages import amount, seed_list, title

RECORDS = {
    "claims.json": "every claim with interval, seeds and control",
    "cost.json": "seconds and memory of every step",
    "provenance.json": "commit, lock, settings, models, versions",
}


class TallyRow(NamedTuple):
    """Claims of one replication, counted by verdict; `category` is its entry in the menu of the report."""

    category: str
    title: str
    counts: list[int]


class FrontPage(NamedTuple):
    """The values of the front page."""

    scale: str
    seeds: str
    n_claims: int
    n_judged: int
    problems: list[str]
    verdicts: list[str]
    tally: list[TallyRow]
    records: dict[str, str]
    facts: dict[str, str]


def front_page(results: Path) -> FrontPage | None:
    """The front page of a run; None while its records are missing, damaged or of another version."""
    try:
        claims = read_claims(results / "claims.json")
        cost, provenance = read_json(results / "cost.json"), read_json(results / "provenance.json")
        return FrontPage(
            scale=provenance["scale"],
            seeds=seed_list(provenance["seeds"]),
            n_claims=len(claims),
            n_judged=sum(claim.verdict != "not run here" for claim in claims),
            problems=[claim.problem for claim in claims if claim.problem],
            verdicts=list(verdicts()),
            tally=tally(by_replication(claims)),
            records=RECORDS,
            facts=facts(cost, provenance),
        )
    except (UserError, KeyError, TypeError):
        return None


def tally(groups: dict[str, list[Claim]]) -> list[TallyRow]:
    """One row per replication and one for all of them."""
    rows = [TallyRow(name.replace("_", " "), title(name), count(group)) for name, group in groups.items()]
    return [*rows, TallyRow("", "all", count(list(chain(*groups.values()))))]


def count(claims: list[Claim]) -> list[int]:
    """How many claims have each verdict."""
    return [sum(claim.verdict == verdict for claim in claims) for verdict in verdicts()]


def facts(cost: dict[str, Any], provenance: dict[str, Any]) -> dict[str, str]:
    """Cost and provenance of a run, by what they are called on the page."""
    commit = (provenance["commit"] or "not in a git checkout")[:12] + (" with changes" if provenance["dirty"] else "")
    return {
        "cost": f"{amount(cost['total'])}, on {provenance['device']}",
        "commit": commit,
        "lock, settings": f"SHA-256 {provenance['lock_sha256'][:12]}, {provenance['config_sha256'][:12]}",
        "models": "; ".join(f"{name}: {found['origin']}" for name, found in provenance["models"].items()) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
    }
