"""Step: writes the claims of a run as a page with a filter (`claims.html`) and as Markdown tables (`claims.md`)."""

from itertools import groupby
from pathlib import Path

from common.core.claims import Claim, verdicts
from common.core.files import write_text
from common.core.step import Files, run_step
from common.core.verify import read_claims, summary
from common.publish.templating import render

COLUMNS = ("Claim", "Paper", "Ours [95 % interval]", "Asserted", "Control [95 % interval]", "Verdict")
PLAIN_UNITS = ("1", "share", None)
NONE = "–"


class ClaimsPageFiles(Files):
    """What the step reads and writes."""

    claims: Path
    markdown: Path
    html: Path


def number(value: float | None, low: float | None, high: float | None, unit: str | None) -> str:
    """`0.40 [0.39, 0.41]`, with the unit if there is one to speak of, or a dash for what was not measured."""
    if value is None or low is None or high is None:
        return NONE
    shown = "" if unit in PLAIN_UNITS else " %" if unit == "percent" else f" {unit}"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]{shown}"


def cells(claim: Claim) -> list[str]:
    """What stands in the columns between claim and verdict."""
    control = claim.control
    return [
        claim.paper_value or NONE,
        number(claim.value, claim.ci_low, claim.ci_high, claim.unit),
        claim.assertion,
        f"{control.name}: {number(control.value, control.ci_low, control.ci_high, claim.unit)}",
    ]


def shown_verdict(claim: Claim) -> str:
    """The verdict, for a reported claim with the others that are tolerated."""
    if claim.role == "required":
        return claim.verdict
    other = {claim.expected_verdict, *claim.also_seen} - {claim.verdict} if claim.also_seen else set()
    remarks = ["reported", *(f"with other rounding {verdict}" for verdict in sorted(other))]
    return f"{claim.verdict} ({'; '.join(remarks)})"


def by_replication(claims: list[Claim]) -> dict[str, list[Claim]]:
    """Claims grouped by replication, in the order of the file."""
    return {name: list(group) for name, group in groupby(claims, key=lambda claim: claim.replication)}


def markdown(claims: list[Claim]) -> str:
    """The claims in Markdown: one table per replication, one row per claim and model."""
    parts = [f"{summary(claims)}."]
    for name, group in by_replication(claims).items():
        parts += [f"**{name}**", table(group)]
    return "\n\n".join(parts) + "\n"


def table(claims: list[Claim]) -> str:
    """One Markdown table, one row per claim and model."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for claim in claims:
        model = "" if claim.model == "toy" else f" ({claim.model})"
        row = [f"{claim.statement}{model} [{claim.source}]", *cells(claim), shown_verdict(claim)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)


def html(claims: list[Claim]) -> str:
    """The claims table as one self-contained page with a filter; a card per claim on phones."""
    return render(
        "claims.html.j2",
        columns=COLUMNS,
        none=NONE,
        groups=by_replication(claims),
        cells=cells,
        shown_verdict=shown_verdict,
        summary=summary,
        claims=claims,
        verdicts=verdicts(),
    )


def claims_page(files: ClaimsPageFiles) -> None:
    """Writes the page and the tables of all claims of a run."""
    found = read_claims(files.claims)
    write_text(files.html, html(found))
    write_text(files.markdown, markdown(found))


if __name__ == "__main__":
    run_step(claims_page)
