"""The report and the claims page in headless Chromium: from disk, without a network request or an error."""

import re

import pytest

from common.core.claims import Amendment
from common.core.settings import ROOT
from common.core.verify import read_claims
from common.publish.claims_page import html
from common.publish.texts import title
from tests.browser.accessibility import missed, violations
from tests.browser.chromium import opened

pytestmark = [pytest.mark.browser, pytest.mark.workflow]


def test_claims_page(browser, finished):
    page, problems = opened(browser, finished.results / "claims.html", viewport={"width": 390, "height": 800})
    assert page.title() == "Claims"
    rows = page.locator("tbody tr").count()
    assert rows >= 8
    assert missed(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page itself scrolls sideways on a phone"
    assert problems == []


def test_claims_page_can_be_filtered_by_words_and_verdict(browser, finished):
    page, problems = opened(browser, finished.results / "claims.html")
    every = page.locator("tr[data-verdict]:visible").count()
    page.get_by_label("Filter").fill("grokking no such words")
    assert page.locator("tr[data-verdict]:visible").count() == 0
    assert page.locator("tbody:visible").count() == 0, "the heading of a group without claims stays"
    page.get_by_label("Filter").fill("grokking")
    assert page.locator("tbody:visible").count() >= 1
    group = page.locator("tbody[data-name='grokking']")
    assert group.locator("tr[data-verdict]:visible").count() == group.locator("tr[data-verdict]").count()
    count = page.locator("#found").inner_text()
    assert page.locator("#said").inner_text() != count, "a screen reader would drop it in the burst of changes"
    page.wait_for_function("count => document.getElementById('said').textContent === count", arg=count)
    assert page.locator("th[scope=row]").count() == every
    page.get_by_label("Filter").fill("")
    page.get_by_label("Verdict").select_option("not run here")
    skipped = page.locator("tr[data-verdict='not run here']").count()
    assert page.locator("tr[data-verdict]:visible").count() == skipped
    assert page.locator("#found").inner_text() == f"{skipped} of {every} claims"
    page.get_by_label("amended").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll", "the table can be reached by keyboard"
    assert problems == []


def test_claims_page_can_be_filtered_by_tier_badge_and_replication(browser, tmp_path):
    change = Amendment(date="2026-11-26", field="bound", before=1, after=2)
    claims = read_claims(ROOT / "figures" / "claims.json")
    claims = [claim.model_copy(update={"amended": [change] * (place % 2)}) for place, claim in enumerate(claims)]
    (tmp_path / "claims.html").write_text(html(claims), encoding="utf-8")
    page, problems = opened(browser, tmp_path / "claims.html")
    shown = page.locator("tr[data-verdict]:visible")
    page.get_by_label("Tier").select_option("check")
    assert shown.count() == sum(claim.tier == "check" for claim in claims) > 0
    page.get_by_label("Tier").select_option("landmark")
    page.get_by_label("amended").check()
    assert shown.count() == sum(claim.tier == "landmark" and bool(claim.amended) for claim in claims) > 0
    page.get_by_label("Verdict").select_option("not reproduced")
    assert 0 < shown.count() < sum(claim.verdict == "not reproduced" for claim in claims)
    for label in ("Tier", "Verdict"):
        page.get_by_label(label).select_option("")
    page.get_by_label("amended").uncheck()
    page.get_by_role("combobox", name="Replication").select_option(title("ioi_circuit"))
    assert shown.count() == sum(claim.replication == "ioi_circuit" for claim in claims) > 0
    assert page.locator("tbody:visible").count() == 1, "the headings of the others stay"
    assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_front_page_of_the_report(browser, finished, width, scheme):
    """It is what opens, it fits, its links lead into the report, and its text stands out from the ground."""
    size = {"width": width, "height": 844}
    page, problems = opened(browser, finished.results / "report.html", viewport=size, color_scheme=scheme)
    page.wait_for_selector("h2:has-text('Verdicts')", timeout=60_000)
    assert page.locator("main section:visible").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself scrolls sideways"
    colour = page.evaluate("getComputedStyle(document.querySelector('#front p')).color")
    light = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) > 3 * 128
    assert light == (scheme == "dark"), colour
    assert violations(page) == []
    for text in ("Claims", "Paper", "Superposition", "IOI circuit"):
        assert page.locator(f"nav >> text={text}").count() >= 1, text
    page.click("#front table a:has-text('Grokking')")
    page.wait_for_selector("#grokking h2:has-text('Delay')")
    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_claims_and_steering_pages_break_no_rule_of_wcag(browser, finished, scheme):
    [steering] = (finished.results / "feature_steering").glob("*/demonstration/page.html")
    for path in (finished.results / "claims.html", steering):
        for width in (1280, 390):
            size = {"width": width, "height": 844}
            page, problems = opened(browser, path, viewport=size, color_scheme=scheme)
            assert violations(page) == [], f"{path.name} at {width}"
            assert problems == []


def test_what_breaks_a_rule_would_be_found(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        "<html><title>a</title><body style='background:#fff'><p style='color:#999'>faint</p>"
        "<p style='color:#555'>clear</p><button></button><a href='#'><img src='no.png'></a><select></select></body>"
    )
    page, _ = opened(browser, path)
    found = violations(page)
    rules = {line.split(":")[0] for line in found}
    assert rules == {
        "button-name",
        "color-contrast",
        "html-has-lang",
        "image-alt",
        "link-name",
        "select-name",
        "target-size",
    }
    assert [line for line in found if "faint" in line]
    assert not [line for line in found if "clear" in line]


def test_steering_page(browser, finished):
    [path] = (finished.results / "feature_steering").glob("*/demonstration/page.html")
    page, problems = opened(browser, path, viewport={"width": 390, "height": 800})
    assert page.title() == "Steering a small model"
    assert missed(page) == []
    section, shown = page.locator("section").first, page.locator("section .dose:visible")
    dials = section.locator("input[type=radio]")

    def marked():
        """Where the one mark on the curve stands, and the dose of the dial, which the text beside it names."""
        dose = section.locator("input:checked + label").inner_text()
        assert f"at dose {dose};" in section.locator("figcaption").inner_text()
        return section.locator(".curve g.at:visible").bounding_box()["x"], float(dose)

    before, (place, dose) = shown.first.inner_text(), marked()
    dials.first.focus()
    page.keyboard.press("ArrowRight" if dials.first.is_checked() else "ArrowLeft")
    assert shown.first.inner_text() != before, "the dial turns by keyboard and shows another answer"
    moved, turned = marked()
    assert (moved - place) * (turned - dose) > 0, "the marked dose goes with the dial"
    columns = section.locator("div:has(> .dose)").all()
    assert [column.locator(".dose:visible").count() for column in columns] == [1] * len(columns), "one dose at a time"
    assert len(columns) >= 2, "the latent and the difference of means"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page itself scrolls sideways on a phone"
    assert page.locator("script").count() == 0
    assert problems == []
