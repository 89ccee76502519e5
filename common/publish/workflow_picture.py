"""Draws the whole workflow as one picture, `docs/workflow.svg` (`make dag`).

The picture is made from planned jobs (`common.engine.plan`), one row per replication. A row has its parts (folders that
hold metrics), what it needs from elsewhere, and its steps by kind. A step *measures* if it writes a `metrics.json`, and
*draws* if it writes figures. What comes before is *train* if the rule's name says so, else *prepare*. The colours
follow the reader's light or dark setting.
"""

import re
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from common.core.claims import load_claims
from common.core.events import Event
from common.core.settings import ROOT, replications

PICTURE = ROOT / "docs" / "workflow.svg"
STAGES = ("prepare", "train", "measure", "draw")
Number = float | int
TRAINING = re.compile(r"(^|_)(train|tune)(_|$)")


@dataclass
class Row:
    """One replication in the picture."""

    name: str
    parts: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    steps: Counter[str] = field(default_factory=Counter)
    claims: int = 0


def stage(step: Event, rule: str, feeding: set[str]) -> str:
    """The kind of one step of a replication; `feeding` are the files that measuring steps read, at any distance."""
    if any("/figures/" in path for path in step.output):
        return "draw"
    if any(path.endswith("/metrics.json") for path in step.output):
        return "measure"
    if not feeding & set(step.output):
        return "draw"  # pages made beside the figures
    return "train" if TRAINING.search(rule) else "prepare"


def rows(steps: list[Event]) -> list[Row]:
    """One row per replication, those that need others after them, from all planned jobs."""
    maker = {path: step for step in steps for path in step.output}
    feeding: set[str] = set()
    todo = [path for step in steps if any(out.endswith("/metrics.json") for out in step.output) for path in step.input]
    while todo:
        if (path := todo.pop()) not in feeding:
            feeding.add(path)
            todo += maker[path].input if path in maker else []
    found = {name: Row(name, claims=len(load_claims(name))) for name in replications()}
    for step in steps:
        if (name := owner_of(step.rule)) is None or step.rule in (name, f"{name}_claims"):
            continue
        row = found[name]
        row.steps[stage(step, step.rule.removeprefix(f"{name}_"), feeding)] += 1
        row.parts |= {Path(path).parent.name for path in step.output if path.endswith("/metrics.json")}
        row.needs |= {need for path in step.input if (need := _source(path, name))}
    return sorted(found.values(), key=lambda row: (len(row.needs & set(found)), len(row.needs), row.name))


def owner_of(rule: str) -> str | None:
    """The replication that a rule belongs to: of those whose name it begins with, the longest."""
    return max((name for name in replications() if rule == name or rule.startswith(f"{name}_")), key=len, default=None)


def _source(path: str, name: str) -> str | None:
    """What lies outside the replication: a corpus, the language models, or another replication."""
    parts = path.split("/")
    if path.startswith("resources/models/"):
        return "language model"
    if path.startswith("resources/corpora/"):
        return parts[2].removesuffix("-laptop")
    return parts[2] if parts[0] == "results" and len(parts) > 3 and parts[2] != name else None


# Layout, in units of the picture.
WIDTH, TOP, GAP = 1124, 76, 12
STAGE_X = {"prepare": 432, "train": 538, "measure": 644, "draw": 750}
STAGE_W, CLAIMS_X, BUS_X, END_X = 88, 856, 958, 978
STYLE = """
.paper{fill:#ffffff}.box{fill:#f6f8fa;stroke:#8c959f}.text{fill:#1f2328}.quiet{fill:#59636e}.line{stroke:#59636e;fill:none}
.tip{fill:#59636e}.need{fill:#ffffff;stroke:#8c959f;stroke-dasharray:3 2}
.prepare{fill:#ddf4ff;stroke:#0969da}.train{fill:#fff1d6;stroke:#9a6700}.measure{fill:#dafbe1;stroke:#1a7f37}
.draw{fill:#fbefff;stroke:#8250df}.claims{fill:#ffffff;stroke:#1f2328;stroke-width:2}
@media (prefers-color-scheme:dark){
.paper{fill:#0d1117}.box{fill:#151b23;stroke:#656c76}.text{fill:#f0f6fc}.quiet{fill:#9198a1}.line{stroke:#9198a1}
.tip{fill:#9198a1}.need{fill:#0d1117;stroke:#656c76}
.prepare{fill:#0c2d4d;stroke:#4493f8}.train{fill:#3d2c05;stroke:#d29922}.measure{fill:#0f3a1c;stroke:#3fb950}
.draw{fill:#2f1a4d;stroke:#ab7df8}.claims{fill:#0d1117;stroke:#f0f6fc}}
"""


def _text(x: Number, y: Number, content: str, css: str = "text", size: int = 13, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" class="{css}" font-size="{size}"{weight}>{escape(content)}</text>'


def _box(x: Number, y: Number, width: Number, height: Number, css: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{css}"/>'


def _arrow(x: Number, y: Number, to: Number) -> str:
    return f'<path d="M{x:g} {y:g}H{to - 6:g}" class="line"/><path d="M{to:g} {y:g}l-7 -4v8z" class="tip"/>'


def _row(row: Row, y: Number) -> tuple[list[str], Number]:
    """The drawing of one replication at height `y`, and its own height."""
    listed = textwrap.wrap(", ".join(sorted(row.parts)).replace("_", " "), 34)
    needs = sorted(row.needs)
    height = max(30 + 17 * len(listed), 14 + 27 * len(needs), 56) + 8
    middle = y + height / 2
    drawn = [_box(16, y, CLAIMS_X + 100 - 24, height, "box"), _text(28, y + 23, row.name, size=15, bold=True)]
    drawn += [_text(28, y + 42 + 17 * index, line, "quiet") for index, line in enumerate(listed)]
    for index, need in enumerate(needs):
        top = middle - 13.5 * len(needs) + 27 * index + 1.5
        drawn += [_box(272, top, 140, 24, "need"), _text(280, top + 16.5, need.replace("_", " "), size=12)]
    here: Number | None = 412 if needs else None
    for name in STAGES:
        if not row.steps[name]:
            continue
        left, count = STAGE_X[name], row.steps[name]
        drawn += [_arrow(here, middle, left)] if here is not None else []
        drawn += [_box(left, middle - 22, STAGE_W, 44, name), _text(left + 9, middle - 3, name, bold=True)]
        drawn.append(_text(left + 9, middle + 14, f"{count} step{'s' if count > 1 else ''}", size=12))
        here = left + STAGE_W
    drawn += [_arrow(here or 0, middle, CLAIMS_X), _box(CLAIMS_X, middle - 22, 68, 44, "claims")]
    drawn += [_text(CLAIMS_X + 9, middle - 3, "claims", bold=True), _text(CLAIMS_X + 9, middle + 14, str(row.claims))]
    drawn.append(f'<path d="M{CLAIMS_X + 68} {middle:g}H{BUS_X}" class="line"/>')
    return drawn, height


ENDS = (
    ("claims.json", "every verdict"), ("report.html", "figures and data"), ("paper.pdf", "numbers injected"),
    ("provenance.json", "commit, models"), ("cost.json", "time, memory"), ("exit code", "0 if all holds"),
)  # fmt: skip


def picture(found: list[Row]) -> str:
    """The whole workflow as one SVG without references to anything else."""
    head = [_text(28, 30, "The whole workflow", size=18, bold=True)]
    head += [
        _text(x, 60, text, "quiet") for x, text in ((28, "replication and its parts"), (272, "needs"), (432, "steps"))
    ]
    head += [_text(x, 60, text, "quiet") for x, text in ((CLAIMS_X, "judged"), (END_X + 8, "written"))]
    drawn, y, middles = [], float(TOP), []
    for row in found:
        lines, height = _row(row, y)
        drawn += lines
        middles.append(y + height / 2)
        y += height + GAP
    start = (middles[0] + middles[-1]) / 2 - 31 * len(ENDS)
    ends = [start + 62 * index for index in range(len(ENDS))]
    low, high = min(middles[0], ends[0] + 26), max(middles[-1], ends[-1] + 26)
    drawn.append(f'<path d="M{BUS_X} {low:g}V{high:g}" class="line"/>')
    for top, (name, said) in zip(ends, ENDS, strict=True):
        drawn += [_arrow(BUS_X, top + 26, END_X), _box(END_X, top, 132, 52, "box")]
        drawn += [
            _text(END_X + 8, top + 22, name, bold=True, size=12),
            _text(END_X + 8, top + 40, said, "quiet", size=12),
        ]
    total = sum(sum(row.steps.values()) for row in found)
    said = (
        f"The whole workflow: {len(found)} replications with {total} steps. In each, steps prepare, train, measure and "
        "draw; the measured numbers are judged by claims, which go into report, paper and exit code. "
        + " ".join(f"{row.name} needs {', '.join(sorted(row.needs))}." for row in found if row.needs)
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4:g}" role="img" '
            f"font-family=\"system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\">",
            f"<title>The whole workflow</title><desc>{escape(said)}</desc><style>{STYLE}</style>",
            _box(0, 0, WIDTH, y + 4, "paper"),
            *head,
            *drawn,
            "</svg>\n",
        ]
    )
