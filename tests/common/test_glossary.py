"""The glossary of judged metrics: lines of code that have the name, formulas that no seal contradicts, the page."""

import re
from pathlib import Path

import pytest

from common.core.claims import load_claims
from common.core.files import write_json
from common.core.metrics import Metric, Uncertainty, write_metrics
from common.core.settings import ROOT, replications
from common.publish import glossary, metric_sources
from common.publish.glossary import Place, address, counted, formulas_of, sealed, terms
from common.publish.metric_sources import UNKNOWN, closure, place_of, steps_of
from common.publish.site import from_records
from common.publish.site_pages import Site
from tests.common.test_record import claim

ASSEMBLED = re.compile(r'"([^"\n]*{[^"\n]*)"')  # an f-string, or one that `format` fills
LEAST = 0.75  # of the judged metrics that have a line; the others' names are put together in loops


def judged(name):
    return {(one.part, one.metric) for one in load_claims(name) if one.tier != "planned"}


def gives(code, metric):
    """Whether code holds the name of the metric, or a text with gaps that can give it."""
    patterns = [re.sub(r"\\{.*?\\}", r"\\w+", re.escape(text)) for text in ASSEMBLED.findall(code)]
    return f'"{metric}"' in code or any(re.fullmatch(pattern, metric) for pattern in patterns)


@pytest.mark.parametrize("name", replications())
def test_every_judged_metric_leads_to_code_that_has_its_name(name):
    for part, metric in judged(name):
        place = place_of(name, part, metric)
        assert place is not None, f"no rule writes {part}"
        lines = (ROOT / place.path).read_text().splitlines()
        if place.line:
            assert gives(lines[place.line - 1], metric), f"{place} is not {part}.{metric}"
        else:
            sources = [path.read_text() for path in closure(name, steps_of(name, part))]
            assert any(gives(text, metric) for text in sources), f"nothing that writes {part} can name {metric}"


def test_most_judged_metrics_have_a_line():
    places = [place_of(name, *one) for name in replications() for one in judged(name)]
    assert sum(place.line is not None for place in places) >= LEAST * len(places)


@pytest.fixture(scope="module")
def recorded():
    source = from_records()
    return {
        name: (source.records[name].get("formulas"), terms(name, claims, source.records[name].get("formulas", {})))
        for name, claims in source.claims.items()
    }


@pytest.mark.parametrize("name", replications())
def test_every_judged_metric_has_a_formula(name, recorded):
    if name not in recorded:
        pytest.skip("it has no record yet")
    kept, found = recorded[name]
    without = [term for term in found if not term.formula]
    assert [term.metric for term in without if any(one.tier == "landmark" for one in term.claims)] == []
    if kept is not None:
        measured = [term for term in without if any(one.value is not None for one in term.claims)]
        assert measured == [], "the record keeps the formulas of its run"


@pytest.mark.parametrize("name", replications())
def test_what_the_code_says_is_what_was_sealed(name, recorded):
    if name not in recorded:
        pytest.skip("it has no record yet")
    for term in recorded[name][1]:
        known = next(filter(None, map(sealed, term.claims)), None)
        if known and term.place and term.place.formula:
            pattern = re.escape(term.place.formula).replace(UNKNOWN, ".*")
            assert re.fullmatch(pattern, known), f"{term.part}.{term.metric}: {term.place.formula} is not {known}"


MODULE = """
from common.core.metrics import Metric
from replications.demo.helper import helped

TEXTS = {"told": "a text"}

def made(values, formula) -> Metric: ...

def measure(rows):
    said = "a name, followed"
    rows["seen"] = rows["seen"] + 1
    found = {"seen": made(rows, formula=f"at {rows} points"), "named": made(rows, formula=said)}
    for arm in ARMS:
        found[f"gain_{arm}"] = made(rows, formula="gain")
        found[f"{arm}"] = made(rows, formula="any")
    if rows:
        found["twice"] = made(rows, formula="one")
    else:
        found["twice"] = made(rows, formula="two")
    found["null"] = against_null(rows, formula="the null")
"""
RULES = """
use rule step as measure with:
    output:
        metrics="<results>/toy/part/metrics.json",
    params:
        **STEP("measure"),
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    folder = tmp_path / "replications" / "demo"
    folder.mkdir(parents=True)
    for file, text in {"measure.py": MODULE, "helper.py": 'HELPED = {"helped": 1 + 1}\n', "rules.smk": RULES}.items():
        (folder / file).write_text(text)
    monkeypatch.setattr(metric_sources, "ROOT", tmp_path)

    def place(metric, part="part"):
        found = place_of("demo", part, metric)
        text = (tmp_path / found.path).read_text().splitlines()[found.line - 1] if found and found.line else None
        return found and (Path(found.path).name, text and text.strip(), found.formula)

    return place


def test_the_metric_is_told_from_other_values_of_its_name(demo):
    line = 'found = {"seen": made(rows, formula=f"at {rows} points"), "named": made(rows, formula=said)}'
    assert demo("seen") == ("measure.py", line, "at … points")
    assert demo("named") == ("measure.py", line, "a name, followed")
    assert demo("gain_late") == ("measure.py", 'found[f"gain_{arm}"] = made(rows, formula="gain")', "gain")
    assert demo("helped") == ("helper.py", 'HELPED = {"helped": 1 + 1}', None)
    assert demo("told") == ("measure.py", 'TEXTS = {"told": "a text"}', None)
    assert demo("null")[2] is None, "the formula of the null is not that of the metric"


def test_no_line_is_better_than_a_wrong_one(demo):
    assert demo("twice") == ("measure.py", None, None), "two places"
    assert demo("late") == ("measure.py", None, None), "an f-string that could give any name"
    assert demo("renamed") == ("measure.py", None, None)
    assert demo("seen", part="other") is None, "no rule writes the part"


def test_links_lead_to_the_line_only_at_a_commit_that_has_it(monkeypatch):
    monkeypatch.setattr(glossary, "present", lambda: ("c" * 40, frozenset({"edited.py"})))
    assert address(Place("a.py", 3), "https://x") == f"https://x/blob/{'c' * 40}/a.py#L3"
    assert address(Place("a.py"), "https://x") == f"https://x/blob/{'c' * 40}/a.py"
    assert address(Place("edited.py", 3), "https://x") == "https://x/blob/HEAD/edited.py"
    assert address(Place("a.py", 3), "") is None


@pytest.mark.parametrize(
    ("n", "uncertainty", "said"),
    [
        (5, ("seeds", 5), "5 seeds"),
        (440, ("templates", 44), "440, interval over 44 templates"),
        (1, None, "1, no interval"),
        (None, None, ""),
    ],
)
def test_what_n_counts(n, uncertainty, said):
    over = Uncertainty(unit=uncertainty[0], count=uncertainty[1]) if uncertainty else None
    assert counted(claim("delay", n=n, uncertainty=over)) == said


def test_a_record_keeps_the_formulas_of_its_run(tmp_path):
    metric = Metric(value=7.0, ci_low=6.0, ci_high=8.0, n=5, unit="1", formula="late over early")
    write_metrics(tmp_path / "grokking/toy/delay/metrics.json", {"ratio": metric, "other": metric})
    write_json(tmp_path / "grokking/toy/circuit/metrics.json", {})
    claims = [claim("a", part="delay", metric="ratio"), claim("b", part="none", metric="ratio"), claim("c", part=None)]
    assert formulas_of(tmp_path, "grokking", [*claims, claim("d", part="circuit", metric="gone")]) == {
        "delay.ratio": "late over early"
    }
    run = terms("grokking", claims[:1], {"delay.ratio": "of this run"})
    assert [term.formula for term in run] == ["of this run"], "before what seal and code say"


def test_the_page_of_methods_shows_every_judged_metric(tmp_path, recorded):
    Site(from_records(), tmp_path, "https://example.org/landmarks").write()
    for name, (_, found) in recorded.items():
        page = (tmp_path / name / "methods.html").read_text()
        assert '<a href="#judged-metrics">below</a>' in page
        for term in found:
            row = page.partition(f'id="{term.part}.{term.metric}"')[2].partition("</tr>")[0]
            assert f"<code>{term.metric}</code>" in row
            assert term.place is None or re.search(rf"https://example.org/landmarks/blob/\w+/{term.place.path}", row)
            assert all(f"claims.html#{one.id}" in row for one in term.claims)
