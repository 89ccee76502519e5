"""Step: the demonstration as one static page (opens from disk, no script, all text escaped) and as a figure."""

import textwrap
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, save_figure, use_style
from common.core.files import read_json, write_text
from common.core.step import Files, run_step

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Feature steering</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 110rem; padding: 0 1rem; color: #222; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: .45rem .6rem; text-align: left; vertical-align: top; min-width: 13rem; }
th:first-child { min-width: 9rem; }
td { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
.unsteered { background: #f3f3f3; }
mark, .raised { background: #ffe08a; }
li, .tokens { font-family: ui-monospace, monospace; font-size: 12.5px; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #ddd; } th, td { border-color: #444; } .unsteered { background: #24272b; }
  mark, .raised { background: #7a5f00; color: #fff; }
}
</style></head><body><main>
<h1>One latent held fixed</h1>
<p>{{ model }} answers three questions while one latent of the sparse autoencoder <code>{{ sae }}</code> at
<code>{{ hook }}</code> is held at a multiple of the largest value seen in its training data. The latents were chosen by
rule, not by looking at the answers. Multiplier 0 switches the latent off.</p>
{% for latent in latents %}
<h2>Latent {{ latent.about.index }}</h2>
<p class="tokens">Raises most:
{% for token in latent.about.raised %} <span class="raised">{{ token }}</span>{% endfor %}</p>
<details open><summary>Strongest contexts, one per document
(fires on {{ "%.2f" | format(100 * latent.about.density) }} % of tokens,
largest value {{ "%.3g" | format(latent.about.largest) }})</summary>
<ul>{% for before, middle, after in latent.about.contexts[:6] %}
<li>{{ before }}<mark>{{ middle }}</mark>{{ after }}</li>{% endfor %}</ul>
</details>
<div class="wide" tabindex="0" role="region" aria-label="Answers, latent {{ latent.about.index }}">
<table aria-label="Answers while latent {{ latent.about.index }} is held"><thead><tr>
<th scope="col">question</th><th scope="col" class="unsteered">unsteered</th>
{% for multiplier in multipliers %}<th scope="col">{{ "%g" | format(multiplier) }} &times; largest</th>{% endfor %}
</tr></thead><tbody>
{% for question in questions %}{% set row = loop.index0 %}
<tr><th scope="row">{{ question }}</th><td class="unsteered">{{ unsteered[row] }}</td>
{% for answers in latent.answers %}<td>{{ answers[row] }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
{% endfor %}
</main></body></html>
"""
DRAWN = (-2, 1, 2, 4, 10)
WIDTH, LINES = 24, 9


class PageFiles(Files):
    answers: Path
    caption: Path
    page: Path
    svg: Path
    others: list[Path]
    """the same figure as PNG, PDF, data and caption"""


def page(files: PageFiles) -> None:
    """Writes the page, and a figure of the first latent."""
    content = read_json(files.answers)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(files.page, environment.from_string(TEMPLATE).render(**content))
    use_style()
    data = table(content)
    save_figure(side_by_side(content), files.svg.with_suffix(""), data, files.caption, [files.answers])


def table(content: dict[str, Any]) -> pd.DataFrame:
    """One row per answer; the multiplier of unsteered ones is left empty."""
    lines = []
    for latent in content["latents"]:
        steered = zip(content["multipliers"], latent["answers"], strict=True)
        for multiplier, texts in [(None, content["unsteered"]), *steered]:
            for question, text in zip(content["questions"], texts, strict=True):
                about = {"latent": latent["about"]["index"], "multiplier": multiplier}
                lines.append({**about, "question": question, "answer": text})
    return pd.DataFrame(lines)


def side_by_side(content: dict[str, Any]) -> Figure:
    """The first latent: questions down, multipliers across, the beginning of each answer."""
    latent = content["latents"][0]
    columns = [("unsteered", content["unsteered"])]
    columns += [
        (f"{multiplier:g} x largest", texts)
        for multiplier, texts in zip(content["multipliers"], latent["answers"], strict=True)
        if multiplier in DRAWN
    ]
    questions = content["questions"]
    drawn, axes = plt.subplots(
        len(questions), len(columns), figsize=(PAGE_WIDTH * 1.35, 1.2 * len(questions) + 0.5), squeeze=False
    )
    for row, question in enumerate(questions):
        for column, (name, texts) in enumerate(columns):
            cell = axes[row, column]
            cell.set(xticks=[], yticks=[])
            for side in cell.spines.values():
                side.set_visible(True)
                side.set_color("0.8")
            cell.set_facecolor("0.96" if column == 0 else "white")
            cell.text(
                0.03, 0.96, clipped(texts[row]), fontsize=6, va="top", family="DejaVu Sans Mono",
                transform=cell.transAxes, parse_math=False,
            )  # fmt: skip
            if row == 0:
                cell.set_title(name, fontsize=7, color=PALETTE[0] if column else "0.3")
        axes[row, 0].set_ylabel(textwrap.fill(question, 24), fontsize=6.5)
    raised = ", ".join(printable(token.strip()) for token in latent["about"]["raised"][:6])
    drawn.suptitle(f"Latent {latent['about']['index']}, which raises most: {raised}", fontsize=8, parse_math=False)
    return drawn


def clipped(text: str) -> str:
    """The beginning of a text in short lines."""
    lines = [line for part in printable(text).splitlines() for line in textwrap.wrap(part, WIDTH)]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1][: WIDTH - 4] + " ..."]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Characters that the figure's font lacks become a dot."""
    return "".join(one if one == "\n" or (one.isprintable() and ord(one) < 0x250) else "·" for one in text)


if __name__ == "__main__":
    run_step(page)
