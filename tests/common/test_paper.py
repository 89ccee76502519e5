"""The paper: each replication brings its references, and every figure names the file of the rule that makes it."""

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.core.settings import replications
from common.core.verify import read_claims
from common.data.models import registry
from common.publish.paper import REFERENCES, bounds, figure_rules, found_figures, references
from common.publish.texts import chronological

CALL = r"#[\w-]+(?:\((?:[^()\n]|\([^()\n]*\))*\)|\.[\w-]+)+"
SWALLOWED = re.compile(rf"(?m)^(?!#(?:let|set|show|import)\b).*?{CALL};(?=\s|$)")


def keys(path):
    return re.findall(r"^@\w+\{([^,\s]+),", path.read_text(), re.MULTILINE)


def texts(root, path):
    """The texts that may cite what stands in a list of references."""
    shared = [root / "paper" / "main.typ", root / "paper" / "discussion.typ", *root.glob("replications/*/section.typ")]
    return shared if path == REFERENCES else [(root / path).parent / "section.typ"]


@pytest.mark.parametrize("path", references())
def test_every_entry_is_cited_where_it_belongs(root, path):
    said = "\n".join(text.read_text() for text in texts(root, path))
    assert [key for key in keys(root / path) if not re.search(rf"[@<]{key}\b", said)] == []


def test_no_key_stands_twice_and_entries_show_their_year(root):
    counted = Counter(key for path in references() for key in keys(root / path))
    assert [key for key, count in counted.items() if count > 1] == []
    for path in references():
        assert "@misc" not in (root / path).read_text(), "the style shows no year for @misc; take @article"


def test_a_key_in_two_lists_stops_the_compilation(tmp_path):
    import typst

    entry = "@article{same, title = {T}, author = {A, B}, journal = {J}, year = {2020}}\n"
    for name in ("one.bib", "two.bib"):
        (tmp_path / name).write_text(entry)
    main = tmp_path / "main.typ"
    main.write_text('@same #bibliography(("one.bib", "two.bib"))')
    with pytest.raises(typst.TypstError, match="duplicate"):
        typst.compile(str(main), root=str(tmp_path))


def test_a_new_replication_cites_what_its_list_holds(root, tmp_path):
    import typst

    scaffold = root / "common" / "engine" / "template" / "my_result"
    [key] = keys(scaffold / "references.bib")
    assert f"@{key} " in (scaffold / "section.typ").read_text()
    assert "my_result" in key, "`make new` puts the name of the replication there, so that no key stands twice"
    (tmp_path / "references.bib").write_text((scaffold / "references.bib").read_text())
    (tmp_path / "main.typ").write_text(f'@{key} #bibliography("references.bib", style: "ieee")')
    assert typst.compile(str(tmp_path / "main.typ"), root=str(tmp_path))


def test_a_replication_with_references_of_its_own_is_found(root, tmp_path, monkeypatch):
    for name in ("with_own", "without"):
        (tmp_path / "replications" / name).mkdir(parents=True)
    (tmp_path / "replications" / "with_own" / "references.bib").write_text("")
    monkeypatch.setattr("common.publish.paper.ROOT", tmp_path)
    monkeypatch.setattr("common.publish.paper.replications", lambda: ["with_own", "without"])
    assert references() == [REFERENCES, "replications/with_own/references.bib"]


def test_every_judged_landmark_stands_on_one_page(root, tmp_path):
    import typst

    for name in ("landmarks", "glance"):
        (tmp_path / f"{name}.typ").write_text((root / "paper" / f"{name}.typ").read_text())
    claims = json.loads((root / "figures" / "claims.json").read_text())
    run = {"claims": claims, "provenance": {"models": {"m": {}}, "seeds": [1], "own_seeds": {}}, "cost": {}}
    for name, content in run.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    main = tmp_path / "main.typ"
    main.write_text('#import "glance.typ": *\n#set page(paper: "a4", margin: (x: 2.1cm, y: 2.2cm))\n#glance()')
    empty = dict.fromkeys(("missed", "controls", "makers"), "{}")
    sides = json.dumps(bounds(read_claims(tmp_path / "claims.json")))
    inputs = {"results": "", "sections": ",".join(chronological()), "bounds": sides, **empty}
    pages = typst.compile(str(main), root=str(tmp_path), format="svg", sys_inputs=inputs)
    assert isinstance(pages, bytes), "more than one page"
    judged = [claim for claim in claims if claim["tier"] == "landmark" and claim["value"] is not None]
    dots = len(judged) + sum(control["value"] is not None for claim in judged for control in claim["controls"])
    assert pages.count(b'fill="#0b5394"') == len(judged)
    assert sum(pages.count(colour) for colour in (b'fill="#0b5394"', b'fill="#8c959f"', b'fill="#c4500f"')) == dots


def test_a_figure_is_made_by_the_file_of_its_rule(root, tmp_path, monkeypatch):
    folder = root / "replications" / "some"
    rules = [
        SimpleNamespace(snakefile=str(folder / "rules.smk"), output=["results/x/some/toy/a/metrics.json"]),
        SimpleNamespace(snakefile=str(folder / "figures.smk"), output=["results/x/some/{model}/a/figures/one.svg"]),
    ]
    makers = figure_rules(rules)
    assert makers == {"results/x/some/*/a/figures/one.svg": "replications/some/figures.smk"}
    monkeypatch.chdir(tmp_path)
    for name in ("small/a/figures/one.svg", "small/a/figures/two.svg", "large/deep/a/figures/one.svg"):
        path = Path("results/x/some", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert found_figures(makers, Path("results/x")) == {"some/small/a/figures/one": "replications/some/figures.smk"}


@pytest.mark.parametrize("name", [*replications(), "landmarks", "main", "discussion"])
def test_no_semicolon_is_swallowed(root, name):
    """Typst takes a semicolon right behind a call for the end of the call; in prose it is written `\\;`."""
    section = root / "replications" / name / "section.typ"
    path = section if section.exists() else root / "paper" / f"{name}.typ"
    assert SWALLOWED.findall(path.read_text()) == []


@pytest.mark.parametrize("name", replications())
def test_no_section_names_a_model_that_other_scales_do_not_run(root, name):
    """`smoke`, `MODELS=` and a hub run others; `model` of paper/landmarks.typ is that of the run."""
    section = (root / "replications" / name / "section.typ").read_text()
    assert [model for model in registry() if f'"{model}"' in section or f"/{model}/" in section] == []


@pytest.mark.parametrize("name", replications())
def test_a_section_begins_with_the_finding(root, name):
    section = (root / "replications" / name / "section.typ").read_text()
    assert re.findall(r"^\*([^*\n]+)\.\*", section, re.MULTILINE)[0] == "The finding"


def test_a_swallowed_semicolon_would_be_found():
    assert SWALLOWED.search('the first is #value("a", "b"); the second')
    assert SWALLOWED.search('#names(x).join(" and "); the strongest #value(part("a"), "b").')
    assert SWALLOWED.search('is #value(part("a"), "b"); the area')
    assert not SWALLOWED.search('the first (#value("a", "b")); the second #value("c")\\; third\n#let x = f(1);\n')
