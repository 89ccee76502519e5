"""The front page of the report: verdicts, failures, links, cost and provenance, all from the records of a run."""

import json
import re

import pytest

from common.gallery import RECORDS
from common.report import front_page
from common.verify import read_claims


@pytest.fixture
def records(root, tmp_path):
    for name in RECORDS:
        (tmp_path / name).write_text((root / "figures" / name).read_text())
    return tmp_path


def test_it_counts_every_claim_once(records):
    page, claims = front_page(records), read_claims(records / "claims.json")
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", page)
    counts = [[int(cell.replace("–", "0")) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]
    *replications, total = counts
    assert len(replications) == len({claim.replication for claim in claims})
    assert [sum(column) for column in zip(*replications, strict=True)] == total
    assert sum(total) == len(claims)


def test_a_failed_claim_is_named_first_and_escaped(records):
    claims = json.loads((records / "claims.json").read_text())
    assert "claims fail this run" not in front_page(records)
    claims[0] |= {"verdict": "not reproduced", "expected_verdict": "reproduced", "reason": "<script>alert(1)</script>"}
    (records / "claims.json").write_text(json.dumps(claims))
    page = front_page(records)
    assert claims[0]["id"] in page.split("<h2>Verdicts</h2>")[0]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_links_lead_to_files_of_the_run_or_into_the_report(records):
    data = records / "grokking" / "toy" / "delay" / "figures" / "delay.csv"
    data.parent.mkdir(parents=True)
    data.write_text("step\n")
    (data.parents[1] / "page.html").write_text("<p>neurons</p>")
    links = re.findall(r'href="([^"]+)"', front_page(records))
    own = {"grokking/toy/delay/figures/delay.csv", "grokking/toy/delay/page.html"}
    assert own <= set(links)
    for link in set(links) - own:
        assert link.startswith("javascript:app.showCategory(") or re.fullmatch(r"[a-z]+\.(html|pdf|json)", link), link


@pytest.mark.parametrize("content", [None, "{", "[]", '[{"id": "of an older version"}]', "{}"])
@pytest.mark.parametrize("name", RECORDS)
def test_what_an_older_run_left_cannot_stop_a_new_one(records, name, content):
    (records / name).unlink() if content is None else (records / name).write_text(content)
    page = front_page(records)
    assert page.startswith("<p>The records of this run are not complete") or (
        content in "[] {}" and name == "claims.json"
    )
