"""Step: writes the claims of a run as a page with a filter (`claims.html`) and as Markdown tables (`claims.md`)."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import get_args

from common.core.claims import Claim, Tier, load_claims_file
from common.core.files import write_text
from common.core.settings import replications
from common.core.step import Files, run_step
from common.core.verdicts import VERDICTS
from common.core.verify import overview, read_claims, summary
from common.publish.controls import definition
from common.publish.forest_plot import forest_plot
from common.publish.misses import missed, reaches
from common.publish.templating import behind, render, signs
from common.publish.texts import chronological, title

COLUMNS = ("Claim", "Paper", "Ours [95 % interval]", "Asserted", "Strongest control [95 % interval]", "Verdict")
DASH = "–"
PLANNED = "planned"


class ClaimsPageFiles(Files):
    """What the step reads and writes."""

    claims: Path
    markdown: Path
    html: Path


def number(value: float | None, low: float | None, high: float | None, unit: str | None) -> str:
    """`0.40 [0.39, 0.41]`, with the unit if there is one to speak of, or a dash for what was not measured."""
    if value is None or low is None or high is None:
        return DASH
    return f"{value:.3g} [{low:.3g}, {high:.3g}]{behind(unit)}"


def value(claim: Claim) -> str:
    """The measured value with its interval."""
    return number(claim.value, claim.ci_low, claim.ci_high, claim.unit)


def strongest(claim: Claim) -> str:
    """Name and value of the strongest control, or a dash."""
    found = next((one for one in claim.controls or [] if one.name == claim.strongest_control), None)
    if found is None or claim.value is None:
        return DASH
    shown = number(found.value, found.ci_low, found.ci_high, claim.unit)
    return f"{found.name.replace('_', ' ')}: {shown}"


def verdict(claim: Claim) -> str:
    """The verdict; that of a claim without one is `planned`."""
    return claim.verdict or PLANNED


def reason(claim: Claim) -> str:
    """Why the claim has its verdict, in words; of a landmark that is not reproduced first what it missed."""
    first = ""
    if claim.tier == "landmark" and claim.verdict == "not reproduced":
        short = not reaches(claim, claim.value)
        first = f"{value(claim)} misses {claim.assertion}; " if short else f"{missed(claim)}: "
    why = claim.reason.replace("does not exclude 0 on the right side", "is not wholly on the passing side of 0")
    return signs((first + why).replace("_", " "))


def cells(claim: Claim) -> list[str]:
    """What stands in the columns behind the claim."""
    return [
        claim.paper_value or DASH,
        value(claim),
        claim.assertion or DASH,
        strongest(claim),
        f"{verdict(claim)}{' (amended)' if claim.amended else ''}",
    ]


def by_replication(claims: list[Claim]) -> dict[str, list[Claim]]:
    """Claims grouped by replication, as its `claims.yaml` orders them now; a record keeps the order of its run."""
    groups = {name: list(group) for name, group in groupby(claims, key=lambda claim: claim.replication)}
    known = [name for name in chronological() if name in groups]
    return {name: in_order(name, groups[name]) for name in dict.fromkeys([*known, *groups])}


def in_order(replication: str, claims: list[Claim]) -> list[Claim]:
    """The claims of one replication in the order of its `claims.yaml`; those that it no longer has come last."""
    if replication not in replications():
        return claims
    places = {f"{replication}.{one.id}": at for at, one in enumerate(load_claims_file(replication).claims)}
    return sorted(claims, key=lambda claim: places.get(claim.id, len(places)))


def markdown(claims: list[Claim]) -> str:
    """The claims in Markdown: one table per replication, one row per claim and model."""
    parts = [f"{overview(claims)}."]
    for name, group in by_replication(claims).items():
        parts += [f"**{name}**", table(group)]
    return "\n\n".join(parts) + "\n"


def table(claims: list[Claim]) -> str:
    """One Markdown table, one row per claim and model."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for claim in claims:
        model = "" if claim.model == "toy" else f" ({claim.model})"
        row = [f"{claim.statement}{model} [{claim.source}]", *cells(claim)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)


def html(claims: list[Claim], navigation: Mapping[str, str] | None = None) -> str:
    """The claims table as one self-contained page with a filter; a card per claim on phones. On the site, with its
    pages by address (`navigation`) and links to those of the replications."""
    return render(
        "claims.html.j2",
        navigation=navigation,
        title=lambda name: title(name) if name in replications() else name,
        columns=COLUMNS,
        dash=DASH,
        groups=by_replication(claims),
        cells=cells,
        definition=definition,
        forest_plot=forest_plot,
        reason=reason,
        verdict=verdict,
        overview=overview,
        summary=summary,
        claims=claims,
        verdicts=[*VERDICTS, PLANNED],
        tiers=get_args(Tier),
    )


def claims_page(files: ClaimsPageFiles) -> None:
    """Writes the page and the tables of all claims of a run."""
    found = read_claims(files.claims)
    write_text(files.html, html(found))
    write_text(files.markdown, markdown(found))


if __name__ == "__main__":
    run_step(claims_page)
