"""Step: judges claims. `replication` writes one replication's `claims.json`; `all` merges them and renders tables.

A failed claim is not a failed job: everything is written, and the last line of `make` sets the exit code from
`claims.json` (see `common.engine.launch`).
"""

from collections import Counter
from collections.abc import Mapping
from html import escape
from itertools import groupby
from pathlib import Path

import tyro
from pydantic import ValidationError

from common.core.claims import (
    Amendment,
    Check,
    Claim,
    Definition,
    Landmark,
    evaluate,
    load_claims,
    load_planned,
    planned,
)
from common.core.errors import UserError
from common.core.files import read_json, write_json, write_text
from common.core.metrics import Metric, read_metrics
from common.core.seals import read_lock, sealed_for, status
from common.core.settings import Kind, Scale
from common.core.statistics import LEVEL, holm
from common.core.step import run_command
from common.core.verdicts import OUTCOMES, VERDICTS


def replication(
    scale: Scale, replication: str, results: Path, models: list[str], out: Path, kind: Kind = "scored"
) -> None:
    """Judges every claim of one replication from its metrics and writes `out` (JSON)."""
    judged = verify_replication(replication, scale, models, results, kind)
    write_json(out, [claim.model_dump(mode="json") for claim in judged])
    for claim in judged:
        print(f"{claim.verdict}: {claim.id} on {claim.model} ({claim.reason})")


def verify_replication(
    replication: str, scale: str, models: list[str], results: Path, kind: Kind = "scored"
) -> list[Claim]:
    """Judges every claim of one replication from the metrics below `results/<replication>/`.

    `models` are the language models of this run; claims on the model `toy` always run. Seals do not count in runs on
    calibration seeds. Planned claims come last.
    """
    definitions, lock = load_claims(replication), read_lock(replication)
    judged: dict[tuple[str, str], Claim] = {}
    for tier in (Check, Landmark):  # checks first: some are preconditions
        for definition in (one for one in definitions if isinstance(one, tier)):
            found: dict[str, Mapping[str, Metric] | str] = {}
            for model in definition.models:
                if scale not in definition.scales:
                    found[model] = f"needs scale {' or '.join(definition.scales)}; this is {scale}"
                elif model not in ("toy", *models):
                    found[model] = f"model {model} is not part of this run"
                else:
                    unmet = _unmet(definition, model, judged)
                    found[model] = unmet or _metrics_of(replication, definition, results / replication / model)
            entry, amended = None, list[Amendment]()
            if isinstance(definition, Landmark) and kind != "calibration":
                measured = {
                    model: metrics[definition.metric]
                    for model, metrics in found.items()
                    if not isinstance(metrics, str) and definition.metric in metrics
                }
                entry, amended = status(replication, definition, scale, measured, lock, fresh=kind == "fresh")
            for model, metrics in found.items():
                judged[definition.id, model] = evaluate(
                    replication,
                    definition,
                    model,
                    metrics,
                    sealed=sealed_for(entry, model),
                    amended=amended,
                    few_seeds=kind == "fresh",
                )
    ordered = [judged[definition.id, model] for definition in definitions for model in definition.models]
    return ordered + [planned(replication, claim) for claim in load_planned(replication)]


def _unmet(definition: Definition, model: str, judged: Mapping[tuple[str, str], Claim]) -> str | None:
    """Why a landmark is not judged: its precondition fails, or was not judged, on this model; or None."""
    if not isinstance(definition, Landmark) or definition.precondition is None:
        return None
    checks = {of: claim for (name, of), claim in judged.items() if name == definition.precondition}
    for claim in [checks[model]] if model in checks else checks.values():
        if claim.verdict != "holds":
            return f"its precondition '{definition.precondition}' on {claim.model}: {claim.verdict} ({claim.reason})"
    return None


def _metrics_of(replication: str, definition: Definition, folder: Path) -> Mapping[str, Metric]:
    """The metrics of the part that a claim names. UserError naming the parts that there are."""
    path = folder / definition.part / "metrics.json"
    if not path.exists() and (parts := sorted(file.parent.name for file in folder.glob("*/metrics.json"))):
        raise UserError(
            f"claim {replication}.{definition.id} names the part '{definition.part}', which does not exist; there is "
            f"{', '.join(parts)}; correct replications/{replication}/claims.yaml"
        )
    return read_metrics(path)


def merge(claims: list[Path], out: Path) -> None:
    """Merges the files of all replications into `out`, and renders it beside as `.md` and `.html`."""
    merged = [claim for path in claims for claim in read_claims(path)]
    write_json(out, [claim.model_dump(mode="json") for claim in merged])
    write_text(out.with_suffix(".md"), markdown(merged))
    write_text(out.with_suffix(".html"), html(merged))


def read_claims(path: Path) -> list[Claim]:
    """The content of a `claims.json`. UserError if it is missing, damaged or of another version."""
    content = read_json(path)
    try:
        return [Claim.model_validate(item) for item in content]
    except (TypeError, ValidationError):
        raise UserError(f"{path} is damaged or of another version; delete it and run `make resume`") from None


NOT_RUN = "not run here"
PLAIN_UNITS = ("1", "share", None)


def number(value: float | None, low: float | None, high: float | None, unit: str | None) -> str:
    """`0.40 [0.39, 0.41]`, with the unit if there is one to speak of, or a dash for what was not measured."""
    if value is None or low is None or high is None:
        return "–"
    shown = "" if unit in PLAIN_UNITS else " %" if unit == "percent" else f" {unit}"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]{shown}"


def significance(claims: list[Claim]) -> str:
    """`38 of 40 differences significant after Holm's correction`, over all differences of landmarks; or nothing."""
    judged = [claim for claim in claims if claim.tier == "landmark"]
    differences = [control.difference for claim in judged for control in claim.controls if control.difference]
    count = sum(p < 1 - LEVEL for p in holm(differences)) if differences else 0
    return f"{count} of {len(differences)} differences significant after Holm's correction" if differences else ""


def overview(claims: list[Claim]) -> str:
    """What all claims of a run together give: the summary, and what Holm's correction leaves."""
    return "; ".join(filter(None, (summary(claims), significance(claims))))


def summary(claims: list[Claim]) -> str:
    """`12 of 16 landmarks reproduced, 1 not reproduced, 3 not run here; 20 checks hold, 1 fails`."""
    parts = []
    if landmarks := Counter[str](claim.verdict or "" for claim in claims if claim.tier == "landmark"):
        others = [f"{landmarks[verdict]} {verdict}" for verdict in (*OUTCOMES[1:], NOT_RUN) if landmarks[verdict]]
        if amended := sum(bool(claim.amended) for claim in claims):
            others.append(f"{amended} amended")
        parts.append(", ".join([f"{landmarks['reproduced']} of {landmarks.total()} landmarks reproduced", *others]))
    if checks := Counter[str](claim.verdict or "" for claim in claims if claim.tier == "check"):
        others = [f"{checks[verdict]} {verdict}" for verdict in ("fails", NOT_RUN) if checks[verdict]]
        parts.append(", ".join([f"{checks['holds']} of {checks.total()} checks hold", *others]))
    if waiting := sum(claim.tier == "planned" for claim in claims):
        parts.append(f"{waiting} planned")
    return "; ".join(parts)


UNKNOWN = '<span aria-hidden="true">–</span><span class="unseen">none</span>'  # a dash alone is not spoken
COLUMNS = ("Claim", "Paper", "Ours [95 % interval]", "Asserted", "Strongest control [95 % interval]", "Verdict")


def _row(claim: Claim) -> tuple[str, ...]:
    model = "" if claim.model == "toy" else f" ({claim.model})"
    return (
        f"{claim.statement}{model} [{claim.source}]",
        claim.paper_value or "–",
        number(claim.value, claim.ci_low, claim.ci_high, claim.unit),
        claim.assertion or "–",
        strongest(claim),
        f"{claim.verdict or 'planned'}{' (amended)' if claim.amended else ''}",
    )


def strongest(claim: Claim) -> str:
    """Name and value of the strongest control, or a dash."""
    for control in claim.controls:
        if control.name == claim.strongest_control:
            return f"{control.name}: {number(control.value, control.ci_low, control.ci_high, claim.unit)}"
    return "–"


def markdown(claims: list[Claim]) -> str:
    """The claims in Markdown: one table per replication, one row per claim and model."""
    parts = [f"{overview(claims)}."]
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


STYLE = """:root{color-scheme:light dark;background:Canvas;color:CanvasText;
--line:#8886;--good:#00704f;--half:#8a5a00;--bad:#a63603;--none:#5a5a5a}
@media (prefers-color-scheme:dark){:root{--good:#4cc9a0;--half:#e0b04a;--bad:#ff9d6b;--none:#b0b0b0}}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:84rem;padding:0 1rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:.8rem 0}form{margin:.8rem 0;display:flex;flex-wrap:wrap;gap:.6rem}
input,select{font:inherit;padding:.25rem .5rem;max-width:100%}input{width:20rem}
:is(a,input,select,.scroll):focus-visible{outline:3px solid #d97706;outline-offset:2px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{border-bottom:1px solid var(--line);
padding:.4rem .6rem;text-align:left;vertical-align:top}[scope=row]{width:32%;font-weight:normal}.v{font-weight:600}
.source,.reason{font-size:.85em;opacity:.85}[scope=rowgroup]{font-size:1.15em;padding-top:1.2rem}
:is([data-verdict=reproduced],[data-verdict=holds]) .v{color:var(--good)}
[data-verdict="same direction"] .v{color:var(--half)}
:is([data-verdict="not reproduced"],[data-verdict=fails]) .v{color:var(--bad)}
[data-verdict="not run here"] .v{color:var(--none)}
@media (max-width:700px){thead{position:absolute;left:-999rem}tr,td,th{display:block;width:auto}
td,[scope=row]{border:0;padding:.15rem 0;width:auto}td::before{content:attr(data-label)": ";font-weight:600}
tbody tr{border-bottom:1px solid var(--line);padding:.5rem 0}}
:is(tr,tbody)[hidden]{display:none}.unseen{position:absolute;clip-path:inset(50%)}"""

# The count is spoken a while after the rows have changed: screen readers drop what comes in the same burst of events.
SCRIPT = """const words=document.getElementById("words"),verdict=document.getElementById("verdict"),
found=document.getElementById("found"),said=document.getElementById("said"),
rows=[...document.querySelectorAll("tr[data-verdict]")];let later;
function filter(){const wanted=words.value.toLowerCase().split(/\\s+/).filter(Boolean);let shown=0;
for(const row of rows){const text=(row.parentNode.dataset.name+" "+row.textContent).toLowerCase();
row.hidden=!((!verdict.value||row.dataset.verdict===verdict.value)&&wanted.every(word=>text.includes(word)));
shown+=!row.hidden}
for(const body of document.querySelectorAll("tbody"))body.hidden=!body.querySelector("tr[data-verdict]:not([hidden])");
found.textContent=shown+" of "+rows.length+" claims";clearTimeout(later);
later=setTimeout(()=>{said.textContent=found.textContent},1500)}
words.oninput=verdict.onchange=filter;words.form.onsubmit=()=>false;filter();"""


def html(claims: list[Claim]) -> str:
    """The claims table as one self-contained page with a filter; a card per claim on phones. All text is escaped."""
    head = "".join(f'<th scope="col" role="columnheader">{escape(column)}</th>' for column in COLUMNS)
    groups = {name: list(group) for name, group in groupby(claims, key=lambda claim: claim.replication)}
    bodies, links = [], []
    for name, group in groups.items():
        title = escape(name.replace("_", " "))
        links.append(f'<a href="#{escape(name)}">{title}</a>')
        heading = f'<th colspan="{len(COLUMNS)}" scope="rowgroup" role="rowheader" id="{escape(name)}">{title}'
        first = f'<tr role="row">{heading} <span class="source">{escape(summary(group))}</span></th></tr>'
        bodies.append(f'<tbody role="rowgroup" data-name="{title}">{first}{"".join(map(_html_row, group))}</tbody>')
    choices = "".join(f"<option>{escape(verdict)}</option>" for verdict in VERDICTS)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Claims</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>Claims</h1><p>{escape(overview(claims))}. A claim is reproduced "
        "if its whole interval and every seed pass its threshold, while every control fails it.</p>"
        f'<nav aria-label="Replications">{"".join(links)}</nav>'
        '<form role="search"><label>Filter <input id="words" type="search" placeholder="words in the row"></label>'
        f'<label>Verdict <select id="verdict"><option value="">all</option>{choices}</select></label>'
        '<span id="found"></span><span id="said" role="status" class="unseen"></span></form>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Claims table">'
        '<table role="table" aria-label="Claims">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>{"".join(bodies)}</table></div></main>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _html_row(claim: Claim) -> str:
    """One claim. The roles keep it a table row for screen readers where narrow screens show it as a card."""
    _, *cells, verdict = map(escape, _row(claim))
    model = "" if claim.model == "toy" else f"; on {claim.model}"
    first = f'{escape(claim.statement)}<div class="source">{escape(claim.source + model)}</div>'
    last = f'<span class="v">{verdict}</span><div class="reason">{escape(claim.reason)}</div>'
    shown = f'<th scope="row" role="rowheader">{first}</th>' + "".join(
        f'<td role="cell" data-label="{escape(label)}">{UNKNOWN if cell == "–" else cell}</td>'
        for label, cell in zip(COLUMNS[1:], (*cells, last), strict=True)
    )
    return f'<tr role="row" id="{escape(claim.id)}" data-verdict="{escape(claim.verdict or "planned")}">{shown}</tr>'


def main() -> None:
    """Chooses the sub-command from the command line."""
    tyro.extras.subcommand_cli_from_dict({"replication": replication, "all": merge})


if __name__ == "__main__":
    run_command(main)
