"""Step: the page with the dial. One static file: works from disk, by keyboard and on a phone; all text is escaped."""

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from common.core.files import read_json, write_text
from common.core.step import Files, run_step
from replications.feature_steering.words import stem

WORD = re.compile(r"[^\W\d_]+")


class PageFiles(Files):
    shown: Path
    template: Path
    page: Path


def page(files: PageFiles) -> None:
    """Writes the page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["marked"] = marked
    template = environment.from_string(files.template.read_text(encoding="utf-8"))
    write_text(files.page, template.render(**read_json(files.shown)))


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
