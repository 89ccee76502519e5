"""The report: its front page from the records of a run, and one file that holds all figures, pages and data."""

import base64
import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from snakemake_interface_report_plugins.interfaces import FileRecordInterface

from common.core.claims import Claim
from common.core.verify import read_claims
from common.publish.front_page import RECORDS, front_page
from common.publish.report import Category, Result, menu, report, result_of, slug, step_times, title_of
from common.publish.templating import render

COST = {"total": {"cpu_s": 600.0, "peak_rss_mb": 900.0, "disk_mb": 20.0}}
ORIGIN = {
    "scale": "laptop", "seeds": [0, 1, 2], "own_seeds": {"grokking": [7, 9]},
    "device": "a processor", "commit": "a" * 40, "dirty": False,
    "lock_sha256": "b" * 64, "config_sha256": "c" * 64, "models": {}, "versions": {"torch": "2"},
}  # fmt: skip


def claim(replication, name, verdict, **more):
    return Claim.model_validate(
        {
            "id": f"{replication}.{name}",
            "replication": replication,
            "tier": "check" if verdict else "planned",
            "statement": "The effect is large.",
            "counterpart": None,
            "source": "Somebody 2020",
            "paper_value": None,
            "model": "toy",
            "verdict": verdict,
            "reason": "it is",
            **more,
        }
    ).model_dump(mode="json")


@pytest.fixture
def records(tmp_path):
    claims = [
        claim("grokking", "one", "holds"),
        claim("grokking", "two", "not run here"),
        claim("superposition", "three", "holds"),
        claim("superposition", "four", None),
    ]
    for name, content in {"claims.json": claims, "cost.json": COST, "provenance.json": ORIGIN}.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def figure(records):
    """A figure with its data, as the report takes it."""
    folder = records / "grokking" / "toy" / "delay" / "figures"
    folder.mkdir(parents=True)
    for ending, content in (("svg", "<svg>" + 100 * "<g/>" + "</svg>"), ("csv", "</script>\n1"), ("json", "{}")):
        (folder / f"delay.{ending}").write_text(content)
    return folder / "delay.svg"


def record(path, mime, caption="<p>Loss &lt; 1</p>", **labels):
    job = SimpleNamespace(rule=SimpleNamespace(name="grokking_draw"))
    found = Mock(spec=FileRecordInterface)
    found.configure_mock(path=path, mime=mime, caption=caption, labels=labels, params="--seeds 0", job=job)
    return found


def page(records, categories=()):
    return report(records, list(categories), [("grokking_train", 2, 3.0)])


def unpacked(text):
    stored = re.findall(r'<script type="application/gzip" data-name="(.+?)" data-type="(.+?)">(.*?)</script>', text)
    return {name: (kind, gzip.decompress(base64.b64decode(content))) for name, kind, content in stored}


def test_it_counts_every_claim_once(records):
    front, claims = front_page(records), read_claims(records / "claims.json")
    *replications, every = front.tally
    assert [row.category for row in replications] == ["grokking", "superposition"]
    assert [sum(column) for column in zip(*(row.counts for row in replications), strict=True)] == every.counts
    assert sum(every.counts) == len(claims)
    assert every.counts[front.verdicts.index("planned")] == 1


def test_a_failed_claim_is_named_first_and_escaped(records):
    assert "every check that was tested holds" in page(records)
    failed = claim("grokking", "one", "fails", reason="<script>alert(1)</script>")
    (records / "claims.json").write_text(json.dumps([failed]))
    text = page(records)
    assert "grokking.one on toy" in text.split("<h2>Verdicts</h2>")[0]
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    known = claim("grokking", "one", "fails", reason="one of five", expected_verdict="fails")
    (records / "claims.json").write_text(json.dumps([known, claim("grokking", "two", "holds")]))
    text = page(records).split("<h2>Verdicts</h2>")[0]
    assert "but for 1 that" in text
    assert "<li>grokking.one: one of five</li>" in text
    assert "claims fail this run" not in text
    (records / "claims.json").write_text(json.dumps([claim("grokking", "one", "not run here")]))
    assert "No claim is judged" in page(records)


def test_the_report_holds_figures_pages_data_and_records(records, figure):
    (records / "claims.html").write_text("<p>claims</p>")
    shown = [
        ("Grokking", "Delay", result_of(record(figure, "image/svg+xml", figure="a <b> title"), records)),
        ("Claims", "", result_of(record(records / "claims.html", "text/html", page="All claims"), records)),
    ]
    text = page(records, menu(shown))
    files = unpacked(text)
    assert files["grokking/toy/delay/figures/delay.svg"] == ("image/svg+xml", figure.read_bytes())
    assert files["grokking/toy/delay/figures/delay.csv"] == ("text/csv", b"</script>\n1")
    assert files["claims.html"] == ("text/html", b"<p>claims</p>")
    assert set(RECORDS) <= set(files)
    assert set(re.findall(r'data-file="(.+?)"', text)) <= set(files), "a button without its file"
    names = set(re.findall(r' id="(.+?)"', text))
    links = set(re.findall(r'href="#(.+?)"', text))
    assert {link for link in links if not link.startswith("show=")} <= names
    assert {link.removeprefix("show=") for link in links - names} <= set(files)
    assert "A &lt;b&gt; title. Loss &lt; 1" in text, "title and caption are text"
    assert "<td>2</td><td>3.0</td>" in text
    assert text == page(records, menu(shown)), "same run, same bytes"
    assert not re.findall(r'(?:src|href)="(?!#)', text), "the file needs another one"


def test_the_menu_begins_with_claims_and_paper():
    one = Result("x.svg", "X", "", "image/svg+xml", "rule", "", {})
    whole = Result("paper.pdf", "The paper", "", "application/pdf", "rule", "", {})
    found = menu(
        [("Superposition", "B", one), ("Paper", "", whole), ("Grokking", "", one), ("Superposition", "A", one)]
    )
    assert [category.name for category in found] == ["Paper", "Grokking", "Superposition"]
    assert list(found[-1].groups) == ["A", "B"]
    assert [category.address for category in found] == ["#show=paper.pdf", "#grokking", "#superposition"]


def test_titles_are_readable():
    assert title_of(Path("heads_by_layer.svg"), {}) == "Heads by layer"
    assert title_of(Path("x.svg"), {"figure": "loss_curve", "model": "gpt2"}) == "Loss curve, gpt2"
    assert title_of(Path("x.html"), {"page": "The paper"}) == "The paper"
    assert slug("IOI circuit/toy/a_b") == "ioi-circuit-toy-a-b"


def test_jobs_of_a_rule_are_added_up():
    jobs = [
        SimpleNamespace(rule=rule, starttime=1.0, endtime=end) for rule, end in (("a", 2.0), ("b", 6.0), ("a", 3.0))
    ]
    assert step_times(jobs) == [("b", 1, 5.0), ("a", 2, 3.0)]


def test_a_template_refuses_a_value_that_is_missing():
    with pytest.raises(Exception, match="is undefined"):
        render("report.html.j2", front=None, categories=[Category("A", {})])


@pytest.mark.parametrize("content", [None, "{", "[]", '[{"id": "of an older version"}]', "{}"])
@pytest.mark.parametrize("name", RECORDS)
def test_what_an_older_run_left_cannot_stop_a_report(records, name, content):
    (records / name).unlink() if content is None else (records / name).write_text(content)
    text = page(records)
    assert "The records of this run are not complete" in text or (content in "[] {}" and name == "claims.json")
