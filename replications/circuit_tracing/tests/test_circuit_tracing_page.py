"""The exported graph: its JSON in circuit-tracer's schema, and its page."""

import json

import pytest

from common.core.files import read_json
from common.core.settings import checked
from common.saes.browser import filled
from replications.circuit_tracing.export import Described, TracerFile, view
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.task import vocabulary
from replications.circuit_tracing.tests.circuit_tracing_tiny import TASK
from tests.browser.accessibility import missed, violations
from tests.browser.chromium import opened

WORDS = ["</script><script>window.hacked=1</script>", *[f"<b>{at}</b>" for at in range(len(vocabulary(TASK)) - 1)]]


@pytest.fixture
def made_view(frozen, per_layer):
    graph = attribute(frozen, per_layer)

    def describe(node):
        return Described(
            f"<i>{node}</i>", "<u>g</u>" if node % 2 else "", [{"words": WORDS[:3], "at": 1, "value": 0.5}]
        )

    return view(graph, WORDS, slug="t", title="<b>hostile</b>", scan="s", d_sae=20, describe=describe)


def test_the_json_fits_the_schema_of_circuit_tracer(made_view, tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(made_view.tracer.model_dump(mode="json")))
    found = checked(TracerFile, read_json(path), path)
    kinds = {node.feature_type for node in found.nodes}
    assert {"embedding", "logit", "cross layer transcoder"} <= kinds
    logits = [node for node in found.nodes if node.feature_type == "logit"]
    assert {node.layer for node in logits} == {"4"}
    assert logits[0].node_id == f"4_{logits[0].feature}_3"
    features = [node for node in found.nodes if node.feature_type == "cross layer transcoder"]
    assert all(node.feature == 100 * int(node.layer) + int(node.node_id.split("_")[1]) for node in features)
    ids = {node.node_id for node in found.nodes}
    assert all(set(group[1:]) <= ids for group in found.qParams.supernodes)
    assert all({link.source, link.target} <= ids for link in found.links)


@pytest.mark.browser
def test_a_large_graph_opens_with_what_can_be_read_at_the_output(browser, root, made_view, tmp_path):
    feature = next(node for node in made_view.page["nodes"] if node["kind"] == "feature")
    many = [feature | {"share": 0.1 + 0.0005 * at, "group": "", "pos": at % 3} for at in range(400)]
    path = tmp_path / "large.html"
    content = made_view.page | {"nodes": [*made_view.page["nodes"], *many]}
    path.write_text(filled((root / "replications/circuit_tracing/viewer.html").read_text(), content))
    page, problems = opened(browser, path, viewport={"width": 390, "height": 800})
    assert 20 < page.locator(".node.feature").count() <= 60
    assert page.locator(".node.logit").first.bounding_box()["x"] < 390, "the output is in sight"
    assert problems == []
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 800), (390, 800)])
def test_the_page_works_from_disk_by_keyboard_and_escapes_text(browser, root, made_view, tmp_path, size):
    path = tmp_path / "graph.html"
    path.write_text(filled((root / "replications/circuit_tracing/viewer.html").read_text(), made_view.page))
    page, problems = opened(browser, path, viewport={"width": size[0], "height": size[1]})
    assert page.locator(".node").count() > 5
    page.locator(".node.logit").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".node[aria-pressed=true]").count() == 1
    assert "Inputs" in page.locator("#detail").inner_text()
    page.keyboard.press("p")
    assert page.locator(".node.pinned").count() == 1
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.className").startswith("node")
    many = page.locator(".node").count()
    page.locator("#groups").uncheck()
    assert page.locator(".node").count() >= many
    page.locator("#prune").fill("30")
    assert page.locator(".node").count() < many
    page.keyboard.press("Escape")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert violations(page) == []
    assert missed(page) == []
    assert problems == []
    page.close()
