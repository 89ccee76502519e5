"""The forest plot of a landmark: what stands where, and in which colour."""

import re
import xml.etree.ElementTree as ET

import pytest

from common.core.claims import Claim
from common.publish.forest_plot import LEFT, MOST_CONTROLS, RIGHT, forest_plot

OURS, FAILS, PASSES = "#0b5394", "#6e7781", "#c4500f"


def control(name, value, fails, spread=0.1):
    return {"name": name, "value": value, "ci_low": value - spread, "ci_high": value + spread, "fails": fails}


def landmark(**more):
    return Claim.model_validate(
        {
            "id": "toys.one", "replication": "toys", "tier": "landmark", "source": "Somebody",
            "statement": "It is large.", "model": "toy", "verdict": "not reproduced", "reason": "it is",
            "assertion": ">= 2", "unit": "nats",
            "value": 3.0, "ci_low": 2.5, "ci_high": 3.5, "per_seed": [2.6, 3.4],
            "controls": [control("far_off", -4.0, True), control("a < b & c", 4.0, False), control("near", 1.0, True)],
            "counterpart": None, "paper_value": None,
            **more,
        }
    )  # fmt: skip


def drawn(claim):
    """The rows as (name, colour, value, low, high in pixels), and the passing side."""
    picture = ET.fromstring(str(forest_plot(claim)))
    ns = {"": "http://www.w3.org/2000/svg"}
    groups = picture.findall("g", ns)
    names = [text for text in picture.findall("text", ns) if text.get("x") == "8"]
    rows = []
    for group, name in zip(groups, names, strict=False):
        low, high = map(float, re.fullmatch(r"M([\d.]+) [\d.]+H([\d.]+)", group.find("path", ns).get("d")).groups())
        dot = group.findall("circle", ns)[-1]
        rows.append((name.text, group.get("stroke"), float(dot.get("cx")), low, high))
    passing = picture.findall("rect", ns)[1]
    left = float(passing.get("x"))
    return rows, (left, left + float(passing.get("width"))), [text.text for text in picture.iter(f"{{{ns['']}}}text")]


def test_the_effect_comes_first_then_the_controls_nearest_to_passing():
    rows, (left, right), texts = drawn(landmark())
    assert [(name, colour) for name, colour, *_ in rows] == [
        ("ours", OURS), ("a < b & c", PASSES), ("near", FAILS), ("far off", FAILS),
    ]  # fmt: skip
    assert all(low < x < high for _, _, x, low, high in rows)
    inside = {name: left <= x <= right for name, _, x, *_ in rows}
    assert inside == {"ours": True, "a < b & c": True, "near": False, "far off": False}
    assert right == RIGHT, "an open side reaches the end of the axis"
    assert "bound ≥ 2 nats" in texts


@pytest.mark.parametrize(
    ("assertion", "order", "open_left"),
    [("<= 0.5", ["far off", "near", "a < b & c"], True), ("in [0.5, 1.5]", ["near", "a < b & c", "far off"], False)],
)
def test_the_passing_side_is_that_of_the_bound(assertion, order, open_left):
    rows, (left, right), _ = drawn(landmark(assertion=assertion))
    assert [name for name, *_ in rows[1:]] == order
    assert (left == LEFT) is open_left
    assert right < RIGHT


def test_weaker_controls_are_counted():
    more = [control(f"control_{place}", -place / 10, True) for place in range(MOST_CONTROLS + 2)]
    rows, _, texts = drawn(landmark(controls=more))
    assert len(rows) == MOST_CONTROLS + 1
    assert "and 2 weaker" in texts


@pytest.mark.parametrize("more", [{"value": None}, {"tier": "check", "verdict": "holds"}, {"assertion": None}])
def test_what_was_not_judged_as_a_landmark_has_no_picture(more):
    assert forest_plot(landmark(**more)) is None
