"""Step: the page with the dial. One static file: works from disk, by keyboard and on a phone; all text is escaped.

The dose curve stands under every dial, with the present dose marked: means over all topics, from the table of doses.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from common.core.files import read_json, write_text
from common.core.step import Files, run_step
from replications.feature_steering.settings import GRADIENT, MEANS, OUTPUT, RANDOM_LATENT, UNSTEERED, WORDS, Fluency
from replications.feature_steering.words import stem

WORD = re.compile(r"[^\W\d_]+")
LINES = {OUTPUT: "latent", MEANS: "means", RANDOM_LATENT: "random", WORDS: "rows", GRADIENT: "gradient"}
"""Methods of the curve, and what the page calls them; the last three are controls."""
LEFT, RIGHT = 34.0, 325.0
SHARE, COST = (112.0, 24.0), (196.0, 144.0)
"""Where the axes of the curve run, in units of its picture: bottom and top."""


class PageFiles(Files):
    shown: Path
    doses: Path
    template: Path
    page: Path


def page(files: PageFiles, settings: Fluency) -> None:
    """Writes the page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["marked"] = marked
    template = environment.from_string(files.template.read_text(encoding="utf-8"))
    curve = dose_curve(pd.read_csv(files.doses), settings.perplexity)
    write_text(files.page, template.render(curve=curve, **read_json(files.shown)))


def dose_curve(doses: pd.DataFrame, most: float) -> dict[str, Any]:
    """The curve in units of its picture: ticks, the line of each method (dose 0 is the unsteered model). For each dose
    also its place with the values there. `most`: times the unsteered perplexity beyond which no answer counts."""
    of = {method: doses[doses["method"] == method].sort_values("dose") for method in (*LINES, UNSTEERED)}
    table = pd.concat(of[method] for method in LINES)
    widest = float(table["dose"].max())
    share = next(top for top in (0.25, 0.5, 1.0) if top >= min(1.0, table["high"].max()))
    cost = np.log(max(1.2 * most, 1.1 * float(table["perplexity"].max())))

    def place(value: float, axis: tuple[float, float]) -> float:
        return round(float(axis[0] + (axis[1] - axis[0]) * np.clip(value, 0, 1)), 1)

    def point(row: pd.Series) -> dict[str, float]:
        return {
            "x": place(row["dose"] / widest, (LEFT, RIGHT)),
            "share": place(row["takeover"] / share, SHARE),
            "low": place(row["low"] / share, SHARE),
            "high": place(row["high"] / share, SHARE),
            "cost": place(np.log(row["perplexity"]) / cost, COST),
            "takeover": float(row["takeover"]),
            "perplexity": float(row["perplexity"]),
        }

    lines = {name: [point(row) for _, row in of[method].iterrows()] for method, name in LINES.items()}
    start = point(of[UNSTEERED].iloc[0])
    at = [float(dose) for dose in of[OUTPUT]["dose"]]
    return {
        "lines": {name: [start, *points] for name, points in lines.items()},
        "at": {dose: {name: lines[name][number] for name in lines} for number, dose in enumerate(at)},
        "doses": [(start["x"], 0.0)] + [(place(dose / widest, (LEFT, RIGHT)), dose) for dose in at],
        "shares": [(place(part, SHARE), 100 * share * part) for part in (0.0, 0.5, 1.0)],
        "costs": [(place(np.log(tick) / cost, COST), tick) for tick in costs(most, cost)],
        "most": place(np.log(most) / cost, COST),
    }


def costs(most: float, top: float) -> list[float]:
    """Ticks of perplexity: `most` and what lies far enough from it and from each other, up to exp(`top`)."""
    ticks = [most]
    for tick in (1.0, *10.0 ** np.arange(1, 10)):
        if np.log(tick) <= top and min(abs(np.log(tick / one)) for one in ticks) >= 0.2 * top:
            ticks.append(float(tick))
    return ticks


def marked(text: str, words: list[str]) -> Markup:
    """The text, escaped, with the words of the topic highlighted."""
    known, parts, end = set(words), [], 0
    for match in WORD.finditer(text):
        parts.append(escape(text[end : match.start()]))
        word: Any = escape(match[0])
        parts.append(Markup("<mark>{}</mark>").format(word) if stem(match[0]) in known else word)
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


if __name__ == "__main__":
    run_step(page)
