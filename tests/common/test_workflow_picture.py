"""The picture of the workflow: made from a plan, and in step with the workflow as it is."""

import re
from xml.etree import ElementTree

import pytest

from common.core.settings import replications
from common.publish.workflow_picture import PICTURE, parse, picture, rows

PLAN = """Building DAG of jobs...
rule materialise_model:
    output: resources/models/small/manifest.json
    jobid: 1

rule grokking_train_table:
    input: resources/models/small/manifest.json, results/laptop/superposition/toy/sets/models.safetensors
    output: results/laptop/grokking/toy/delay/models.safetensors
    jobid: 2

rule grokking_collect:
    output: results/laptop/grokking/toy/delay/pairs.csv
    jobid: 3

rule grokking_measure:
    input: results/laptop/grokking/toy/delay/models.safetensors, results/laptop/grokking/toy/delay/pairs.csv
    output: results/laptop/grokking/toy/delay/metrics.json, results/laptop/grokking/toy/delay/curves.csv
    jobid: 4

rule grokking_draw:
    input: results/laptop/grokking/toy/delay/curves.csv
    output: results/laptop/grokking/toy/delay/figures/delay.svg
    jobid: 5

rule grokking_page:
    input: results/laptop/grokking/toy/delay/curves.csv
    output: results/laptop/grokking/toy/delay/page.html
    jobid: 6

localrule grokking:
    input: results/laptop/grokking/toy/delay/figures/delay.svg
    jobid: 7
"""


def test_a_plan_becomes_stages_parts_and_needs():
    found = {row.name: row for row in rows(parse(PLAN))}
    row = found["grokking"]
    assert row.steps == {"train": 1, "prepare": 1, "measure": 1, "draw": 2}
    assert row.parts == {"delay"}
    assert row.needs == {"language model", "superposition"}
    assert row.claims >= 1
    assert not found["superposition"].steps
    assert list(found)[-1] == "grokking", "a replication that needs another one stands below it"


def test_the_picture_is_one_file_that_names_every_replication():
    drawn = picture(rows(parse(PLAN)))
    tree = ElementTree.fromstring(drawn)
    texts = {element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {*replications(), "claims.json", "report.html", "paper.pdf"} <= texts
    assert not re.findall(r"(href|url\(|<script|<image)", drawn)
    assert "prefers-color-scheme" in drawn


def test_the_committed_picture_shows_the_workflow_as_it_is(planned_jobs):
    if PICTURE.read_text() != picture(rows(planned_jobs)):
        pytest.fail("docs/workflow.svg shows an older workflow; run `make dag`")


def test_the_drawing_of_the_floors_is_that_of_the_sources(root):
    from common.publish.floors import FLOORS, picture

    assert {path.name for path in (root / "common").iterdir() if (path / "__init__.py").exists()} == set(FLOORS)
    assert (root / "docs" / "floors.svg").read_text() == picture(), "run `make dag`"
