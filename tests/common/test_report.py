"""The front page of the report: verdicts, failures, links, cost and provenance, all from the records of a run."""

import base64
import gzip
import json
import re

import pytest

from common.core.errors import UserError
from common.core.verify import read_claims
from common.publish.gallery import RECORDS
from common.publish.report import finish, front_page


@pytest.fixture
def records(root, tmp_path):
    for name in RECORDS:
        content = json.loads((root / "figures" / name).read_text())  # the gallery has a provenance for each replication
        content = content["ioi_circuit"] if name == "provenance.json" else content
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_it_counts_every_claim_once(records):
    page, claims = front_page(records), read_claims(records / "claims.json")
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", page)
    counts = [[int(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]
    *replications, total = counts
    assert len(replications) == len({claim.replication for claim in claims})
    assert [sum(column) for column in zip(*replications, strict=True)] == total
    assert sum(total) == len(claims)


def test_a_failed_claim_is_named_first_and_escaped(records):
    claims = json.loads((records / "claims.json").read_text())
    assert "Every required claim that was tested holds" in front_page(records)
    (records / "claims.json").write_text(json.dumps([claim | {"verdict": "not run here"} for claim in claims]))
    assert "No claim is judged" in front_page(records)
    claims[0] |= {"verdict": "not reproduced", "expected_verdict": "reproduced", "reason": "<script>alert(1)</script>"}
    (records / "claims.json").write_text(json.dumps(claims))
    page = front_page(records)
    assert claims[0]["id"] in page.split("<h2>Verdicts</h2>")[0]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_what_the_front_page_offers_is_inside_the_report(records):
    data = records / "grokking" / "toy" / "delay" / "figures" / "delay.csv"
    data.parent.mkdir(parents=True)
    data.write_text("step\n")
    (data.parents[1] / "page.html").write_text("<p>neurons</p>")
    page = front_page(records)
    assert all(link.startswith("javascript:app.showCategory(") for link in re.findall(r'href="([^"]+)"', page))
    assert set(re.findall(r'data-file="([^"]+)"', page)) == {"grokking/toy/delay/figures/delay.csv", *RECORDS}
    shown = re.findall(r'data-result="([^"]+)"', page)
    assert shown == [str(records / name) for name in ("claims.html", "paper.pdf", "grokking/toy/delay/page.html")]


def written(records, *entries):
    """A report as Snakemake writes it, cut down to what is packed."""
    results = {
        path: {
            "mime_type": kind,
            "data_uri": f"data:{kind};base64,{base64.b64encode(content).decode()}",
            "caption": "<",
        }
        for path, kind, content in entries
    }
    report = records / "report.html"
    report.write_text(
        "<html><head><title>Snakemake Report</title></head><body>"
        f'<script id="results">\n    var results = {json.dumps(results)};\n    </script><p>rest</p></body></html>'
    )
    return report


def test_the_finished_report_holds_figures_and_data_packed(records):
    data = records / "grokking" / "toy" / "delay" / "figures" / "delay.csv"
    data.parent.mkdir(parents=True)
    data.write_text("step\n1\n</script>")
    figure, paper = b"<svg>" + 100 * b"<g/>" + b"</svg>", b"%PDF"
    report = written(records, ("a/delay.svg", "image/svg+xml", figure), ("paper.pdf", "application/pdf", paper))
    finish(report, records)
    text = report.read_text()
    packed = json.loads(re.search(r'<script id="packed" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    unpack = {kind: {name: gzip.decompress(base64.b64decode(held)) for name, held in packed[kind].items()}
              for kind in packed}  # fmt: skip
    assert unpack["results"] == {"a/delay.svg": figure}
    assert unpack["files"]["grokking/toy/delay/figures/delay.csv"] == data.read_bytes()
    assert set(RECORDS) <= set(unpack["files"])
    left = json.loads(re.search(r"var results = (.*?);\n", text)[1])
    assert "data_uri" not in left["a/delay.svg"]
    assert left["paper.pdf"]["data_uri"].endswith(base64.b64encode(paper).decode())
    assert text.endswith("</script>\n</body></html>")
    assert "<title>Landmarks</title>" in text
    assert "<p>rest</p>" in text
    before = text
    finish(written(records, ("a/delay.svg", "image/svg+xml", figure), ("paper.pdf", "application/pdf", paper)), records)
    assert report.read_text() == before, "same run, same bytes"


def test_a_report_of_another_shape_is_refused_in_one_sentence(records):
    (records / "report.html").write_text("<html><body>new layout</body></html>")
    with pytest.raises(UserError, match="not as expected"):
        finish(records / "report.html", records)


@pytest.mark.parametrize("content", [None, "{", "[]", '[{"id": "of an older version"}]', "{}"])
@pytest.mark.parametrize("name", RECORDS)
def test_what_an_older_run_left_cannot_stop_a_new_one(records, name, content):
    (records / name).unlink() if content is None else (records / name).write_text(content)
    page = front_page(records)
    assert page.startswith("<p>The records of this run are not complete") or (
        content in "[] {}" and name == "claims.json"
    )
