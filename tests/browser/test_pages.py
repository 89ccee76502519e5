"""The report and the claims page in headless Chromium: from disk, without a network request or an error."""

import re

import pytest

from tests.browser.accessibility import missed
from tests.browser.chromium import opened

pytestmark = [pytest.mark.browser, pytest.mark.workflow]
FAINT = """() => {
  // texts whose contrast with their ground is below 4.5, the least that WCAG asks of small text
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const part = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b) + 0.05;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ground = node => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(node).backgroundColor);
      if (a > 0.5) return [r, g, b];
    }
    return dark ? [18, 18, 18] : [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter(node => node.offsetParent && !["SCRIPT", "STYLE", "OPTION"].includes(node.tagName))
    .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
    .filter(node => {
      const [one, two] = [light(numbers(getComputedStyle(node).color)), light(ground(node))];
      return Math.max(one, two) / Math.min(one, two) < 4.5;
    })
    .map(node => node.textContent.trim().slice(0, 60));
}"""


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
    page.get_by_label("Filter").fill("")
    page.get_by_label("Verdict").select_option("not run here")
    skipped = page.locator("tr[data-verdict='not run here']").count()
    assert page.locator("tr[data-verdict]:visible").count() == skipped
    assert page.locator("#found").inner_text() == f"{skipped} of {every} claims"
    page.get_by_label("Verdict").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll", "the table can be reached by keyboard"
    assert problems == []


def test_report(browser, finished):
    page, problems = opened(browser, finished.results / "report.html")
    page.wait_for_selector("text=Superposition", timeout=10_000)
    for text in ("Claims", "Paper", "Superposition", "IOI circuit"):
        assert page.locator(f"text={text}").count() >= 1, text
    assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_front_page_of_the_report(browser, finished, width, scheme):
    """It is what opens, it fits, its links lead into the report, and its text stands out from the ground."""
    size = {"width": width, "height": 844}
    page, problems = opened(browser, finished.results / "report.html", viewport=size, color_scheme=scheme)
    page.wait_for_selector("h2:has-text('Verdicts')", timeout=10_000)
    assert not page.locator("div#rulegraph").count(), "the rule graph hides the front page"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself scrolls sideways"
    colour = page.evaluate("getComputedStyle(document.querySelector('.prose p')).color")
    light = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) > 3 * 128
    assert light == (scheme == "dark"), colour
    assert page.evaluate(FAINT) == []
    page.click(".prose a:has-text('Grokking')")
    page.wait_for_selector("nav >> text=Delay")
    page.fill("nav input", "grokking")
    page.press("nav input", "Enter")
    page.wait_for_selector("nav >> text=Frequencies and phases")
    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_the_claims_page_stands_out_from_its_ground(browser, finished, scheme):
    page, _ = opened(browser, finished.results / "claims.html", color_scheme=scheme)
    assert page.evaluate(FAINT) == []


def test_faint_text_would_be_found(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<body style='background:#fff'><p style='color:#999'>faint</p><p style='color:#555'>clear</p>")
    page, _ = opened(browser, path)
    assert page.evaluate(FAINT) == ["faint"]


def test_steering_page(browser, finished):
    [path] = (finished.results / "feature_steering").glob("*/demonstration/page.html")
    page, problems = opened(browser, path, viewport={"width": 390, "height": 800})
    assert page.title() == "Feature steering"
    assert page.locator("tbody tr").count() >= 3
    assert missed(page) == []
    assert "Los Angeles" in page.locator("tbody").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page itself scrolls sideways on a phone"
    assert page.locator("script").count() == 0
    assert problems == []
