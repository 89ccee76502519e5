"""The front page of `report.html`: verdicts by replication, what failed, how to read the report, cost and provenance.

Snakemake renders `paper/report.rst` as a template while it writes the report. The Snakefile hands it this page, made
from the records of the run. Links call functions of Snakemake's report (`app.showCategory`) or lead to files beside it.
"""

from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.claims import Claim, verdicts
from common.errors import UserError
from common.files import read_json
from common.pages import amount, by_replication, title
from common.verify import read_claims

MOST_PAGES = 20
BESIDE = {
    "claims.html": "the claims table as a page of its own",
    "paper.pdf": "the paper",
    "claims.json": "every claim with interval, seeds and control",
    "cost.json": "seconds and memory of every step",
    "provenance.json": "commit, lock, settings, models, versions",
}


def front_page(results: Path) -> str:
    """One HTML fragment, all text escaped; a single sentence while the records are missing, damaged or outdated."""
    try:
        judged = read_claims(results / "claims.json")
        records = read_json(results / "cost.json"), read_json(results / "provenance.json")
        return _page(results, judged, *records)
    except (
        UserError,
        ValidationError,
        KeyError,
        TypeError,
    ):  # planning a run must not depend on what an older one left
        return "<p>The records of this run are not complete.</p>"


def _page(results: Path, judged: list[Claim], cost: dict[str, Any], provenance: dict[str, Any]) -> str:
    said = (
        f"Scale <b>{escape(provenance['scale'])}</b>, seeds {', '.join(map(str, provenance['seeds']))}. "
        f"{len(judged)} claims; each has a threshold that was frozen before scoring, a 95 % interval, and a control in "
        "which the effect must be absent."
    )
    pages = [path.relative_to(results).as_posix() for path in sorted(results.glob("*/*/*/*.html"))[:MOST_PAGES]]
    beside = BESIDE | {page: f"a page of {page.split('/')[0].replace('_', ' ')}" for page in pages}
    links = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a>: {text}</li>' for name, text in beside.items())
    return "\n".join(
        [
            "<h1>Landmarks</h1>",
            f"<p>Landmark results of mechanistic interpretability, reproduced by one workflow. {said}</p>",
            _failures([claim.problem for claim in judged if claim.problem]),
            "<h2>Verdicts</h2>",
            _tally(by_replication(judged)),
            "<h2>How to read this report</h2>",
            f"<p>Begin with {_category('Claims', 'the claims')}: evidence, control and verdict of each. Figures stand "
            "by replication in the menu; a figure's <i>i</i> button gives its caption, the rule that made it and the "
            "step's options. The search field finds figures by file name (press Enter). <b>Workflow</b> shows all "
            "steps as a graph, <b>Statistics</b> the time of each.</p>",
            "<h2>Files beside this one</h2>",
            f"<ul>{links}</ul>",
            "<h2>Data of the figures</h2>",
            *(_data(results, name) for name in by_replication(judged)),
            "<h2>Cost and provenance</h2>",
            _origin(cost, provenance),
        ]
    )


def _data(results: Path, name: str) -> str:
    """Links to the plotted data of one replication, folded."""
    links = []
    for path in sorted((results / name).glob("*/*/figures/*.csv")):
        place = path.relative_to(results).as_posix()
        links.append(f'<li><a href="{escape(place)}" download>{path.parts[-3]}: {path.stem}</a></li>')
    return f"<details><summary>{escape(title(name))}: {len(links)} tables</summary><ul>{''.join(links)}</ul></details>"


def _failures(problems: list[str]) -> str:
    if not problems:
        return "<p>Every required claim that was tested holds, and no verdict differs from its expected one.</p>"
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f"<p><b>{len(problems)} claims fail this run:</b></p><ul>{listed}</ul>"


def _category(name: str, text: str) -> str:
    """A link to a category of the report's menu, whatever its capital letters."""
    found = f"Object.keys(categories).find(name=>name.toLowerCase()==='{name.lower()}')"
    return f'<a href="javascript:app.showCategory({escape(found)})">{escape(text)}</a>'


def _tally(groups: dict[str, list[Claim]]) -> str:
    head = "".join(f'<th scope="col">{verdict}</th>' for verdict in verdicts())
    rows = []
    for name, group in [*groups.items(), ("all", list(chain(*groups.values())))]:
        found = [sum(claim.verdict == verdict for claim in group) for verdict in verdicts()]
        cells = "".join(f"<td>{count or '–'}</td>" for count in found)
        shown = "all" if name == "all" else _category(name.replace("_", " "), title(name))
        rows.append(f'<tr><th scope="row">{shown}</th>{cells}</tr>')
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Verdicts by replication"><table><thead><tr>'
        f'<th scope="col">replication</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _origin(cost: dict[str, Any], provenance: dict[str, Any]) -> str:
    commit = (provenance["commit"] or "not in a git checkout")[:12] + (" with changes" if provenance["dirty"] else "")
    facts = {
        "cost": f"{amount(cost['total'])}, on {provenance['device']}",
        "commit": commit,
        "lock, settings": f"SHA-256 {provenance['lock_sha256'][:12]}, {provenance['config_sha256'][:12]}",
        "models": "; ".join(f"{name}: {found['origin']}" for name, found in provenance["models"].items()) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()) + "</dl>"
