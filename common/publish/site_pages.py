"""The pages of the site, made from claims and records alone; `common.publish.site` says where those are from."""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from common.core.claims import Claim
from common.core.files import read_json, write_json, write_text
from common.core.settings import ROOT, replications
from common.core.verify import overview, summary
from common.publish import claims_page
from common.publish.claims_page import by_replication, number, reason, strongest, value
from common.publish.controls import definition
from common.publish.earlier import agreement, twice
from common.publish.forest_plot import forest_plot
from common.publish.glossary import address as code_address
from common.publish.glossary import terms
from common.publish.markdown import Address, Caption, block_of, first_words, html_of
from common.publish.misses import missed, what_decided
from common.publish.pages import (
    FOLDER,
    MOST_PICTURES,
    amount,
    badge,
    badge_of,
    carried,
    famous_papers,
    landmarks,
    leading,
    machine,
    page_figures,
)
from common.publish.reference import is_calibration, seeds_of
from common.publish.report import title_of
from common.publish.templating import render
from common.publish.texts import CLAIMS, RECORDS, chronological, title

WHOLE = ("report.html", "paper.pdf", "cost.json", "provenance.json")  # of a run, published as they are
GLOSSARY = "`make site FROM=records`, page of these methods"  # where METHODS say that judged metrics stand
NAVIGATION = {
    "": "Landmarks",
    "glance.html": "At a glance",
    "claims.html": "Claims",
    "figures.html": "Figures by paper",
    "run.html": "Cost, provenance",
}


class Picture(NamedTuple):
    """One figure of a replication: its address from the root of the site, what it shows, and its data."""

    address: str
    title: str
    caption: str
    data: str


@dataclass(frozen=True)
class Source:
    """What the pages are made from. `results` is None for the records."""

    claims: dict[str, list[Claim]]
    records: dict[str, Any]
    stale: list[str]
    results: Path | None
    said: str


def of_present_claims(results: Path, names: Iterable[str], replications: Iterable[str]) -> list[str]:
    """Those files of a whole run that are there and no older than the claims of any replication. A replication that
    has run by itself since leaves a report and a paper behind that say something else."""
    newest = max((results / name / CLAIMS).stat().st_mtime for name in replications)
    there = [name for name in names if (results / name).exists()]
    current = [name for name in there if (results / name).stat().st_mtime >= newest]
    if left_out := sorted(set(there) - set(current)):
        print(f"left out, made before the present claims: {', '.join(left_out)}; `make` renews them", file=sys.stderr)
    return current


def caption_of(name: str) -> Caption:
    """Captions of a replication's figures by their address, without markup."""

    def caption(address: str) -> str:
        path = ROOT / "replications" / name / "captions" / f"{Path(address).stem}.rst"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return " ".join(re.sub(r"[*`]", "", text).split())

    return caption


class Site:
    """Writes all pages of one source into `out`."""

    def __init__(self, source: Source, out: Path, repository: str) -> None:
        self.source, self.out, self.repository = source, out, repository.rstrip("/")

    def write(self) -> None:
        """All pages, badges and files."""
        every = [claim for claims in self.source.claims.values() for claim in claims]
        write_json(self.out / CLAIMS, [claim.model_dump() for claim in every])
        write_json(self.out / RECORDS, self.source.records)
        scored = [claim for claim in every if not is_calibration(self.source.records[claim.replication])]
        write_json(self.out / "badge.json", badge_of("landmarks", scored))
        for name in replications():
            self.replication(name)
        self.page("index.html", "Landmarks", "site_index.html.j2", self.front(every))
        self.page("glance.html", "All landmarks at a glance", "site_glance.html.j2", self.glance(every))
        self.page("figures.html", "Figures by paper", "site_figures.html.j2", {"papers": self.papers(every)})
        self.page("run.html", "Cost and provenance", "site_run.html.j2", self.run())
        write_text(self.out / "claims.html", claims_page.html(every, NAVIGATION))
        write_text(self.out / ".nojekyll", "")  # GitHub Pages: serve the files as they are

    def page(self, name: str, heading: str, template: str, values: dict[str, Any]) -> None:
        """One page with the common frame."""
        root = "../" * name.count("/")
        shared = {"root": root, "heading": heading, "navigation": NAVIGATION, "here": name, "said": self.source.said}
        write_text(self.out / name, render(template, forest_plot=forest_plot, **shared, **values))

    def front(self, every: list[Claim]) -> dict[str, Any]:
        """The values of the front page: one card for each replication."""
        cards = []
        for name in chronological():
            claims = self.source.claims.get(name, [])
            first = leading(claims)
            cards.append(
                {
                    "name": name,
                    "title": title(name),
                    "tally": summary(claims) if claims else "no record yet",
                    "claim": first,
                    "value": value(first) if first else "",
                    "strongest": strongest(first) if first else "",
                    "verdict": self.verdict(first) if first else "",
                    "picture": next(iter(self.headline(name)), None),
                }
            )
        address = self.address("README.md", "")
        page = (ROOT / "README.md").read_text(encoding="utf-8")
        intro, verdicts = first_words(page), block_of(page.partition("## Verdicts")[2], "findings")[0]
        before = "" if self.source.results else agreement(twice(ROOT / FOLDER, every))
        said = {"tally": overview(every), "decided": f"{what_decided(every)} {before}".strip()}
        words = {"intro": html_of(intro, address), "terms": html_of(verdicts, address)}
        return {**words, **said, "cards": cards, "whole": self.whole}

    def glance(self, every: list[Claim]) -> dict[str, Any]:
        """Every landmark as a forest plot."""
        found = by_replication(every).items()
        groups = {name: [(claim, self.verdict(claim)) for claim in landmarks(group)] for name, group in found}
        return {"groups": groups, "title": title, "tally": overview(every)}

    def verdict(self, claim: Claim) -> str:
        """The verdict, or why a landmark is not reproduced, with its marks: amended, unsealed, calibration."""
        return badge(claim, self.source.records, missed(claim))

    @cached_property
    def whole(self) -> list[str]:
        """Files of the run that are published as they are, copied."""
        if (results := self.source.results) is None:
            return []
        names = of_present_claims(results, WHOLE, self.source.claims)
        for name in names:
            self.copy(results / name, name)
        return names

    def copy(self, file: Path, name: str) -> str:
        """Copies a file to `name`, its address from the root."""
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, self.out / name)
        return name

    def headline(self, name: str) -> list[str]:
        """Addresses of the figures of the replication's page: those of the run, else the records' pictures."""
        return [found for figure in page_figures(name) if (found := self.figure(name, figure))]

    def figure(self, name: str, figure: str) -> str | None:
        """The address of one figure, copied; None if there is neither a figure of the run nor a record."""
        found = sorted(self.source.results.glob(f"{name}/*/*/figures/{figure}.svg")) if self.source.results else []
        kept = ROOT / FOLDER / name / f"{figure}.png"
        if not found and not kept.exists():
            return None
        file = found[0] if found else kept
        return self.copy(file, f"{name}/figures/{file.name}")

    def pictures(self, name: str) -> list[Picture]:
        """All figures of the run, with caption and data."""
        shown = []
        for file in sorted(self.source.results.glob(f"{name}/*/*/figures/*.svg")) if self.source.results else []:
            model, part = file.parts[-4], file.parts[-3]
            address = self.copy(file, f"{name}/figures/{model}/{part}/{file.name}")
            data = file.with_suffix(".csv")
            table = self.copy(data, str(Path(address).with_suffix(".csv"))) if data.exists() else ""
            label = {"figure": file.stem, "part": part} | ({} if model == "toy" else {"model": model})
            shown.append(
                Picture(address, title_of(file, label), read_json(file.with_suffix(".json"))["caption"], table)
            )
        return shown

    def interactive(self, name: str) -> dict[str, str]:
        """Feature browsers, steering pages, graphs: every page that the replication has written, by its address."""
        found = {}
        for file in sorted((self.source.results / name).rglob("*.html")) if self.source.results else []:
            heading = file.read_text(encoding="utf-8").partition("<title>")[2].partition("</title>")[0]
            address = self.copy(file, f"{name}/pages/{file.relative_to(self.source.results / name)}")  # type: ignore[operator]
            found[address] = f"{heading or file.stem} ({file.parent.parent.name}, {file.stem})"
        return found

    def address(self, page: str, root: str) -> Address:
        """How a link in the Markdown page `page` reads on the site; None for a file that the site has not."""
        folder = (ROOT / page).parent

        def rewritten(link: str) -> str | None:
            path, _, anchor = link.partition("#")
            behind = f"#{anchor}" if anchor else ""
            if not path or "://" in path:
                return link
            target = Path(os.path.normpath(folder / path)).relative_to(ROOT)
            parts = target.parts
            if parts[0] == FOLDER and target.suffix == ".png":
                found = self.figure(parts[1], target.stem)
                return f"{root}{found}" if found else None
            if parts[0] == "replications" and len(parts) == 3 and parts[2] in ("README.md", "METHODS.md"):
                return f"{root}{parts[1]}/{'index' if parts[2] == 'README.md' else 'methods'}.html{behind}"
            own = {"README.md": "index.html", "docs/figure_index.md": "figures.html"}.get(target.as_posix())
            if own:
                return f"{root}{own}{behind}"
            return f"{self.repository}/blob/HEAD/{target.as_posix()}{behind}" if self.repository else None

        return rewritten

    def replication(self, name: str) -> None:
        """The page of one replication, its methods and its badge."""
        claims, record = self.source.claims.get(name, []), self.source.records.get(name)
        folder = ROOT / "replications" / name
        before, kept, after = block_of((folder / "README.md").read_text(encoding="utf-8"), "results")
        address = self.address(f"replications/{name}/README.md", "../")
        values = {
            "name": name,
            "before": html_of(before, address, caption_of(name)),
            "after": html_of(after, address, caption_of(name)),
            "kept": html_of(kept, address) if record is None else "",
            "tally": summary(claims),
            "record": record,
            "origin": f"Scale {record['scale']}, {seeds_of(record)}, on {machine(record)}" if record else "",
            "amount": amount(record["cost"]) if record else "",
            "number": number,
            "definition": definition,
            "reason": reason,
            "stale": name in self.source.stale,
            "landmarks": [
                (claim, value(claim), strongest(claim), badge(claim, self.source.records))
                for claim in landmarks(claims)
            ],
            "pictures": self.pictures(name),
            "interactive": self.interactive(name),
        }
        self.page(f"{name}/index.html", title(name), "site_replication.html.j2", values)
        methods = (folder / "METHODS.md").read_text(encoding="utf-8").replace(GLOSSARY, "[below](#judged-metrics)")
        text = html_of(methods, self.address(f"replications/{name}/METHODS.md", "../"))
        glossary = [
            (term, term.place and code_address(term.place, self.repository))
            for term in terms(name, claims, (record or {}).get("formulas", {}))
        ]
        values = {"text": text, "name": name, "glossary": glossary, "stale": name in self.source.stale}
        self.page(f"{name}/methods.html", f"Methods: {title(name)}", "site_methods.html.j2", values)
        calibrated = record is not None and is_calibration(record)
        write_json(self.out / name / "badge.json", badge_of(title(name), claims, calibrated))

    def papers(self, every: list[Claim]) -> list[dict[str, Any]]:
        """The famous figures of each paper with their landmarks, and with its first paper a replication's pictures."""
        known, shown, found = {claim.id: claim for claim in every}, set[str](), []
        for paper in famous_papers():
            claims = [known.get(figure.get("landmark", "")) for figure in paper["figures"]]
            said = [{"verdict": self.verdict(claim), "value": value(claim)} if claim else {} for claim in claims]
            rows = [one | {"claim": of} | own for one, of, own in zip(paper["figures"], claims, said, strict=True)]
            names = {claim.replication for claim in claims if claim} - shown
            shown |= names
            pictures = [(name, address) for name in sorted(names) for address in self.headline(name)[:MOST_PICTURES]]
            found.append({"paper": paper["paper"], "figures": rows, "pictures": pictures})
        return found

    def run(self) -> dict[str, Any]:
        """Cost and provenance of each replication."""
        rows = [
            record
            | {"name": name, "title": title(name), "seeds": seeds_of(record), "machine": machine(record)}
            | {"carried": carried(record), "stale": name in self.source.stale}
            for name in chronological()
            if (record := self.source.records.get(name))
        ]
        return {"rows": rows, "amount": amount, "files": [CLAIMS, RECORDS, "badge.json", *self.whole]}
