"""Step: judges claims. `replication` writes one replication's `claims.json`; `all` merges them and renders tables.

A failed claim is not a failed job: everything is written, and the last line of `make` sets the exit code from
`claims.json` (see `common.launch`).
"""

from collections import Counter
from html import escape
from itertools import groupby
from pathlib import Path

import tyro

from common.claims import Claim, verdicts, verify_replication
from common.cli import run_command
from common.config import Scale
from common.files import read_json, write_json, write_text


def replication(scale: Scale, replication: str, results: Path, models: list[str], out: Path) -> None:
    """Judges every claim of one replication from its metrics and writes `out` (JSON)."""
    judged = verify_replication(replication, scale, models, results)
    write_json(out, [claim.model_dump(mode="json") for claim in judged])
    for claim in judged:
        print(f"{claim.verdict}: {claim.id} on {claim.model} ({claim.reason})")


def merge(claims: list[Path], out: Path) -> None:
    """Merges the files of all replications into `out`, and renders it beside as `.md` and `.html`."""
    merged = [claim for path in claims for claim in read_claims(path)]
    write_json(out, [claim.model_dump(mode="json") for claim in merged])
    write_text(out.with_suffix(".md"), markdown(merged))
    write_text(out.with_suffix(".html"), html(merged))


def read_claims(path: Path) -> list[Claim]:
    """The content of a `claims.json`."""
    return [Claim.model_validate(item) for item in read_json(path)]


PLAIN_UNITS = ("1", "share", None)


def number(value: float | None, low: float | None, high: float | None, unit: str | None) -> str:
    """`0.40 [0.39, 0.41]`, with the unit if there is one to speak of, or a dash for what was not measured."""
    if value is None or low is None or high is None:
        return "–"
    shown = "" if unit in PLAIN_UNITS else " %" if unit == "percent" else f" {unit}"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]{shown}"


def summary(claims: list[Claim]) -> str:
    """`12 reproduced, 1 not reproduced, 3 not run here`."""
    found = Counter[str](claim.verdict for claim in claims)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in verdicts() if found[verdict])


COLUMNS = ("Claim", "Paper", "Ours [95 % interval]", "Asserted", "Control [95 % interval]", "Verdict")


def _row(claim: Claim) -> tuple[str, ...]:
    control = claim.control
    model = "" if claim.model == "toy" else f" ({claim.model})"
    return (
        f"{claim.statement}{model} [{claim.source}]",
        claim.paper_value or "–",
        number(claim.value, claim.ci_low, claim.ci_high, claim.unit),
        claim.assertion,
        f"{control.name}: {number(control.value, control.ci_low, control.ci_high, claim.unit)}",
        claim.verdict if claim.role == "required" else f"{claim.verdict} (reported)",
    )


def markdown(claims: list[Claim]) -> str:
    """The claims in Markdown: one table per replication, one row per claim and model."""
    parts = [f"{summary(claims)}."]
    for name, group in groupby(claims, key=lambda claim: claim.replication):
        parts += [f"**{name}**", table(list(group))]
    return "\n\n".join(parts) + "\n"


def table(claims: list[Claim]) -> str:
    """One Markdown table, one row per claim and model."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for claim in claims:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in _row(claim)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


STYLE = """:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:80rem}
.scroll{overflow-x:auto}table{border-collapse:collapse}th,td{border-bottom:1px solid #8886;padding:.4rem .6rem;
text-align:left;vertical-align:top}td{min-width:8rem}.v{font-weight:600;white-space:nowrap}.reason{font-size:.85em}"""


def html(claims: list[Claim]) -> str:
    """The claims table as one self-contained page. All text is escaped."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in COLUMNS)
    rows = []
    for before, claim in zip([None, *claims], claims, strict=False):
        if before is None or before.replication != claim.replication:
            rows.append(f'<tr><th colspan="{len(COLUMNS)}" scope="rowgroup">{escape(claim.replication)}</th></tr>')
        *cells, verdict = (escape(cell) for cell in _row(claim))
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        reason = f'<div class="reason">{escape(claim.reason)}</div>'
        rows.append(f'<tr id="{escape(claim.id)}">{body}<td><span class="v">{verdict}</span>{reason}</td></tr>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Claims</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>Claims</h1><p>{escape(summary(claims))}.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Claims table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></body></html>\n"
    )


def main() -> None:
    """Chooses the sub-command from the command line."""
    tyro.extras.subcommand_cli_from_dict({"replication": replication, "all": merge})


if __name__ == "__main__":
    run_command(main)
