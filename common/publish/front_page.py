"""Collects what the front page of the report says: verdicts, failures, cost and provenance of a run."""

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import read_json
from common.core.verdicts import VERDICTS
from common.core.verify import NOT_RUN, read_claims, summary
from common.publish.claims_page import PLANNED, by_replication, verdict
from common.publish.pages import all_seeds, amount
from common.publish.texts import title

RECORDS = {
    "claims.json": "every claim with interval, seeds and control",
    "cost.json": "seconds and memory of every step",
    "provenance.json": "commit, lock, settings, models, versions",
}
SHOWN = [*VERDICTS, PLANNED]


class TallyRow(NamedTuple):
    """Claims of one replication, counted by verdict; `category` is its entry in the menu of the report."""

    category: str
    title: str
    counts: list[int]


class FrontPage(NamedTuple):
    """The values of the front page."""

    scale: str
    seeds: str
    summary: str
    n_judged: int
    problems: list[str]
    known: list[str]
    """checks that fail, as they are known to, with the reason"""
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
            seeds=all_seeds(provenance),
            summary=summary(claims),
            n_judged=sum(verdict(claim) not in (NOT_RUN, PLANNED) for claim in claims),
            problems=[claim.problem for claim in claims if claim.problem],
            known=[f"{one.id}: {one.reason}" for one in claims if one.verdict == "fails" and not one.problem],
            verdicts=SHOWN,
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
    return [sum(verdict(claim) == name for claim in claims) for name in SHOWN]


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
