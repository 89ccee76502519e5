"""The picture of the workflow: made from a plan, and in step with the workflow as it is."""

import re
from xml.etree import ElementTree

import pytest

from common.core.events import Event, Kind
from common.core.settings import replications
from common.publish.workflow_picture import PICTURE, picture, rows

DELAY = "results/laptop/grokking/toy/delay"


def job(rule, inputs, outputs):
    return Event(Kind.JOB_PLANNED, rule=rule, input=inputs, output=outputs)


PLAN = [
    job("materialise_model", [], ["resources/models/small/manifest.json"]),
    job(
        "grokking_train_table",
        ["resources/models/small/manifest.json", "results/laptop/superposition/toy/sets/models.safetensors"],
        [f"{DELAY}/models.safetensors"],
    ),
    job("grokking_collect", [], [f"{DELAY}/pairs.csv"]),
    job(
        "grokking_measure",
        [f"{DELAY}/models.safetensors", f"{DELAY}/pairs.csv"],
        [f"{DELAY}/metrics.json", f"{DELAY}/curves.csv"],
    ),
    job("grokking_draw", [f"{DELAY}/curves.csv"], [f"{DELAY}/figures/delay.svg"]),
    job("grokking_page", [f"{DELAY}/curves.csv"], [f"{DELAY}/page.html"]),
    job("grokking", [f"{DELAY}/figures/delay.svg"], []),
]


def test_a_plan_becomes_stages_parts_and_needs():
    found = {row.name: row for row in rows(PLAN)}
    row = found["grokking"]
    assert row.steps == {"train": 1, "prepare": 1, "measure": 1, "draw": 2}
    assert row.parts == {"delay"}
    assert row.needs == {"language model", "superposition"}
    assert row.claims >= 1
    assert not found["superposition"].steps
    assert list(found)[-1] == "grokking", "a replication that needs another one stands below it"


def test_the_picture_is_one_file_that_names_every_replication():
    drawn = picture(rows(PLAN))
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
