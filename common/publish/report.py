"""Snakemake report plugin `landmarks`: writes `report.html`, one file that opens from disk and needs no other.

Snakemake hands over the results that rules flag with `report(...)`: path, category, labels, caption, job. The template
`report.html.j2` shows them by replication, with a front page made from the records of the run
(`common.publish.front_page`). Files are packed with gzip; `report.js` unpacks them in the browser.
"""

import base64
import gzip
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from snakemake_interface_report_plugins.interfaces import FileRecordInterface
from snakemake_interface_report_plugins.reporter import ReporterBase
from snakemake_interface_report_plugins.settings import ReportSettingsBase

from common.core.files import write_text
from common.publish.front_page import RECORDS, front_page
from common.publish.templating import render

FIGURE = "image/svg+xml"
TYPES = {".csv": "text/csv", ".json": "application/json"}
DATA = {".csv": "Data (CSV)", ".json": "Caption and sources (JSON)"}
FIRST = ("Claims", "Paper")  # categories of whole pages, which come before the replications


@dataclass
class ReportSettings(ReportSettingsBase):  # type: ignore[misc]
    """Options of the plugin, as `--report-landmarks-path`."""

    path: Path = field(default=Path("report.html"), metadata={"help": "file to write, in the folder of the results"})


@dataclass(frozen=True)
class Result:
    """One figure or page of the report.

    `name` is its path below the results folder. `data` maps the text of a button to the name of a file.
    """

    name: str
    title: str
    caption: str
    type: str
    rule: str
    options: str
    data: dict[str, str]

    @property
    def id(self) -> str:
        """Its anchor in the report."""
        return slug(str(Path(self.name).with_suffix("")))

    @property
    def is_figure(self) -> bool:
        """Whether it is shown in place; pages have a view of their own."""
        return self.type == FIGURE


@dataclass(frozen=True)
class Category:
    """One entry of the menu: its results by subcategory."""

    name: str
    groups: dict[str, list[Result]]

    @property
    def id(self) -> str:
        """Its anchor in the report."""
        return slug(self.name)

    @property
    def address(self) -> str:
        """What the menu links to: the only page of the category, or else its section."""
        if len(self.results) == 1 and not self.results[0].is_figure:
            return f"#show={quote(self.results[0].name)}"
        return f"#{self.id}"

    @cached_property
    def results(self) -> list[Result]:
        """Its results of all subcategories."""
        return [result for group in self.groups.values() for result in group]


@dataclass(frozen=True)
class PackedFile:
    """A file inside the report: its name, its type and its bytes (gzip, base64)."""

    name: str
    type: str
    content: str


class Reporter(ReporterBase):  # type: ignore[misc]
    """Renders the report from what Snakemake has collected."""

    settings: ReportSettings

    def render(self) -> None:
        """Writes the file."""
        folder = self.settings.path.parent
        categories = menu(
            (category.name, "" if sub.is_other else sub.name, result_of(record, folder))
            for category, groups in self.results.items()
            for sub, records in groups.items()
            for record in records
        )
        write_text(self.settings.path, report(folder, categories, step_times(self.jobs)))


def result_of(record: FileRecordInterface, folder: Path) -> Result:
    """What the report says about one flagged file."""
    path = Path(record.path)
    data = {text: path.with_suffix(ending) for ending, text in DATA.items()} if record.mime == FIGURE else {}
    return Result(
        name=path.relative_to(folder).as_posix(),
        title=title_of(path, dict(record.labels or {})),
        caption=Markup(record.caption).striptags(),
        type=record.mime,
        rule=record.job.rule.name,
        options=record.params,
        data={text: file.relative_to(folder).as_posix() for text, file in data.items() if file.exists()},
    )


def title_of(path: Path, labels: dict[str, Any]) -> str:
    """What a result is called: its labels, with a figure that has only a file name made readable."""
    figure = str(labels.pop("figure", "" if labels else path.stem)).replace("_", " ")
    return ", ".join(part for part in (figure[:1].upper() + figure[1:], *map(str, labels.values())) if part)


def slug(name: str) -> str:
    """A name as it may stand in the address of a page."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def menu(results: Iterable[tuple[str, str, Result]]) -> list[Category]:
    """The categories in the order of the menu, from triples (category, subcategory, result)."""
    found: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for category, subcategory, result in sorted(results, key=lambda entry: (entry[1], entry[2].title, entry[2].name)):
        found[category][subcategory].append(result)
    order = sorted(found, key=lambda name: (name not in FIRST, name.lower()))
    return [Category(name, dict(found[name])) for name in order]


def step_times(jobs: Iterable[Any]) -> list[tuple[str, int, float]]:
    """Rule, number of jobs and their seconds, from Snakemake's records of the jobs; the longest first."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        seconds[str(job.rule)].append(job.endtime - job.starttime)
    return sorted(
        ((rule, len(found), sum(found)) for rule, found in seconds.items()), key=lambda row: (-row[2], row[0])
    )


def report(folder: Path, categories: list[Category], steps: list[tuple[str, int, float]]) -> str:
    """The text of `report.html` for the results in `folder`."""
    shown = [result for category in categories for result in category.results]
    types = {result.name: result.type for result in shown}
    types |= {name: TYPES[Path(name).suffix] for result in shown for name in result.data.values()}
    types |= {name: "application/json" for name in RECORDS if (folder / name).exists()}
    return render(
        "report.html.j2",
        front=front_page(folder),
        categories=categories,
        pages=[(category, result) for category in categories for result in category.results if not result.is_figure],
        steps=steps,
        files=[packed(folder, name, kind) for name, kind in types.items()],
    )


def packed(folder: Path, name: str, kind: str) -> PackedFile:
    """A file of the results folder, packed; the same bytes for the same file."""
    content = gzip.compress((folder / name).read_bytes(), mtime=0)
    return PackedFile(name, kind, base64.b64encode(content).decode())
