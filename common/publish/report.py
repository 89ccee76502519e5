"""What is ours in `report.html`: its front page, and the finish of the file that Snakemake has written.

Snakemake renders `paper/report.rst` as a template while it writes the report. The Snakefile hands it the front page,
made from the records of the run. `finish` then packs figures and pages (gzip), adds the data behind the figures, and
adds `paper/report.js`, which unpacks them in the browser, hands the data out and names everything for screen readers.
So the report is one file that needs no other. Links call functions of Snakemake's report (`app.showCategory`);
elements with `data-file` or `data-result` are served by `paper/report.js`.
"""

import base64
import gzip
import json
import re
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import read_json, write_text
from common.core.settings import ROOT
from common.core.verdicts import VERDICTS
from common.core.verify import read_claims
from common.publish.pages import amount, by_replication, seed_list, title

MOST_PAGES = 20
DIAGRAMS = ("circuits", "diagram")
RECORDS = {
    "claims.json": "every claim with interval, seeds and control",
    "cost.json": "seconds and memory of every step",
    "provenance.json": "commit, lock, settings, models, versions",
}
PACKED = ("image/svg+xml", "text/html")
RESULTS = re.compile(r'(<script id="results">\s*var results = )(.*?)(;\s*</script>)', re.DOTALL)


def front_page(results: Path) -> str:
    """One HTML fragment, all text escaped; a single sentence while the records are missing, damaged or outdated."""
    try:
        judged = read_claims(results / "claims.json")
        records = read_json(results / "cost.json"), read_json(results / "provenance.json")
        return _page(results, judged, *records)
    except (UserError, KeyError, TypeError):  # planning a run must not depend on what an older one left
        return "<p>The records of this run are not complete.</p>"


def _page(results: Path, judged: list[Claim], cost: dict[str, Any], provenance: dict[str, Any]) -> str:
    said = (
        f"Scale <b>{escape(provenance['scale'])}</b>, run seeds {seed_list(provenance['seeds'])}. "
        f"{len(judged)} claims; each has a threshold, a 95 % interval, and a control in which the effect must be "
        "absent. Where a threshold was changed after scoring, the page of its replication says so."
    )
    records = "".join(f"<li>{_download(name)}: {text}</li>" for name, text in RECORDS.items())
    return "\n".join(
        [
            "<h1>Landmarks</h1>",
            f"<p>Landmark results of mechanistic interpretability, retested by one workflow. {said}</p>",
            _failures(judged),
            "<h2>Verdicts</h2>",
            _tally(by_replication(judged)),
            "<h2>How to read this report</h2>",
            f"<p>Begin with {_category('Claims', 'the claims')}: evidence, control and verdict of each. Figures stand "
            "by replication in the menu; a figure's <i>i</i> button gives its caption, the rule that made it and the "
            "step's options. The search field finds figures by file name (press Enter). <b>Workflow</b> shows all "
            "steps as a graph, <b>Statistics</b> the time of each.</p>",
            "<h2>Pages and diagrams</h2>",
            f"<ul>{_shown(results)}</ul>",
            "<h2>Data of the figures</h2>",
            "<p>All of it is inside this file; a figure also has its own below it.</p>",
            *(_data(results, name) for name in by_replication(judged)),
            "<h2>Records of the run</h2>",
            f"<ul>{records}</ul>",
            "<h2>Cost and provenance</h2>",
            _origin(cost, provenance),
        ]
    )


def _data(results: Path, name: str) -> str:
    """Buttons for the plotted data of one replication, folded."""
    found = sorted((results / name).glob("*/*/figures/*.csv"))
    several = len({path.parts[-4] for path in found}) > 1
    items = []
    for path in found:
        _, model, part, _, _ = path.relative_to(results).parts
        text = f"{part}: {path.stem}" + (f" ({model})" if several and model != "toy" else "")
        items.append(f"<li>{_download(path.relative_to(results).as_posix(), text)}</li>")
    return f"<details><summary>{escape(title(name))}: {len(items)} tables</summary><ul>{''.join(items)}</ul></details>"


def _download(name: str, text: str = "") -> str:
    return f'<button type="button" data-file="{escape(name)}">{escape(text or name)}</button>'


def _shown(results: Path) -> str:
    """Buttons that show what is worth a look of its own: claims, paper, interactive pages, circuit diagrams."""
    pages = sorted(results.glob("*/*/*/*.html"))[:MOST_PAGES]
    figures = sorted(results.glob("*/*/*/figures/*.svg"))
    diagrams = [path for path in figures if path.stem in DIAGRAMS][:MOST_PAGES]
    items = {results / "claims.html": "the claims table, with a filter", results / "paper.pdf": "the paper"}
    for path in pages + diagrams:
        name, model, part, *_ = path.relative_to(results).parts
        where = title(name) if model == "toy" else f"{title(name)}, {model}"
        items[path] = f"{where}: {part} {path.stem}" if path in pages else f"{where}: {path.stem}"
    return "".join(
        f'<li><button type="button" data-result="{escape(str(path))}">{escape(text)}</button></li>'
        for path, text in items.items()
    )


def finish(report: Path, results: Path) -> None:
    """Packs the report and adds data and script to it. UserError if it is not as Snakemake is known to write it."""
    text = report.read_text(encoding="utf-8")
    match = RESULTS.search(text)
    if match is None or "</body>" not in text:
        raise UserError(f"{report} is not as expected; run `make report` again with the locked Snakemake")
    shown, packed = json.loads(match[2]), {}
    for path, entry in shown.items():
        if entry["mime_type"] in PACKED:
            content = base64.b64decode(entry.pop("data_uri").partition("base64,")[2])
            packed[path] = _packed(content)
    files = [path for ending in ("csv", "json") for path in sorted(results.glob(f"*/*/*/figures/*.{ending}"))]
    files += [results / name for name in RECORDS]
    contents = {
        "results": packed,
        "files": {path.relative_to(results).as_posix(): _packed(path.read_bytes()) for path in files if path.exists()},
    }
    script = (ROOT / "paper" / "report.js").read_text(encoding="utf-8")
    ours = (
        f'<script id="packed" type="application/json">{_safe(contents)}</script>\n<script>\n{script}</script>\n</body>'
    )
    head, _, tail = f"{text[: match.start(2)]}{_safe(shown)}{text[match.end(2) :]}".rpartition("</body>")
    write_text(report, f"{head}{ours}{tail}".replace("<title>Snakemake Report</title>", "<title>Landmarks</title>"))


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _safe(content: Any) -> str:
    """JSON that cannot end the script element which it stands in."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


def _failures(judged: list[Claim]) -> str:
    problems = [claim.problem for claim in judged if claim.problem]
    if not any(claim.verdict != "not run here" for claim in judged):
        return "<p>No claim is judged at this scale or on these models.</p>"
    if not problems:
        return "<p>Every required claim that was tested holds, and no verdict differs from its expected one.</p>"
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f"<p><b>{len(problems)} claims fail this run:</b></p><ul>{listed}</ul>"


def _category(name: str, text: str) -> str:
    """A link to a category of the report's menu, whatever its capital letters."""
    found = f"Object.keys(categories).find(name=>name.toLowerCase()==='{name.lower()}')"
    return f'<a href="javascript:app.showCategory({escape(found)})">{escape(text)}</a>'


def _tally(groups: dict[str, list[Claim]]) -> str:
    head = "".join(f'<th scope="col">{verdict}</th>' for verdict in VERDICTS)
    rows = []
    for name, group in [*groups.items(), ("all", list(chain(*groups.values())))]:
        found = [sum(claim.verdict == verdict for claim in group) for verdict in VERDICTS]
        cells = "".join(f"<td>{count}</td>" for count in found)
        shown = "all" if name == "all" else _category(name.replace("_", " "), title(name))
        rows.append(f'<tr><th scope="row">{shown}</th>{cells}</tr>')
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Verdicts by replication"><table>'
        "<caption>Claims by replication and verdict</caption><thead><tr>"
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
