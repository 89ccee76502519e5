"""The report and the claims page in headless Chromium: from disk, without a network request or an error."""

import pytest

from tests.browser.chromium import opened

pytestmark = [pytest.mark.browser, pytest.mark.workflow]


def test_claims_page(browser, finished):
    page, problems = opened(browser, finished.results / "claims.html", viewport={"width": 390, "height": 800})
    assert page.title() == "Claims"
    rows = page.locator("tbody tr").count()
    assert rows >= 8
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page itself scrolls sideways on a phone"
    assert problems == []


def test_report(browser, finished):
    page, problems = opened(browser, finished.results / "report.html")
    page.wait_for_selector("text=Superposition", timeout=10_000)
    for text in ("Claims", "Paper", "Superposition", "IOI circuit"):
        assert page.locator(f"text={text}").count() >= 1, text
    assert problems == []


def test_steering_page(browser, finished):
    [path] = (finished.results / "feature_steering").glob("*/demonstration/page.html")
    page, problems = opened(browser, path, viewport={"width": 390, "height": 800})
    assert page.title() == "Feature steering"
    assert page.locator("tbody tr").count() >= 3
    assert "Los Angeles" in page.locator("tbody").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page itself scrolls sideways on a phone"
    assert page.locator("script").count() == 0
    assert problems == []
