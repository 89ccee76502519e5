"""The report as one file: everything inside it, and nothing that a screen reader or the keyboard would miss."""

import json
import re

import pytest

from tests.browser.accessibility import focus_order, missed, tree, violations
from tests.browser.chromium import opened

pytestmark = [pytest.mark.browser, pytest.mark.workflow]
FIGURE = "grokking/toy/delay/figures/delay"
VIEWS = ("front", "grokking", "ioi-circuit", "steps")


@pytest.fixture
def alone(finished, tmp_path):
    """The report moved away from everything that lies beside it."""
    path = tmp_path / "report.html"
    path.write_bytes((finished.results / "report.html").read_bytes())
    return path


def front(browser, path, **options):
    page, problems = opened(browser, path, **options)
    page.wait_for_selector("h2:has-text('Verdicts')", timeout=60_000)
    return page, problems


def go(page, address):
    """Follows a link inside the report and waits until its view is shown."""
    page.evaluate("address => { location.hash = address; }", address)
    section = "page" if address.startswith("show=") else address
    page.wait_for_selector(f"#{section} h1, #{section} h2, #{section} h3", timeout=60_000)


def test_the_report_is_one_file_with_figures_pages_and_data(browser, alone, finished):
    page, problems = front(browser, alone)
    files = set(page.evaluate("Object.keys(stored)"))
    for pattern in ("*/*/*/figures/*.svg", "*/*/*/figures/*.csv", "claims.html", "paper.pdf", "*.json"):
        there = {path.relative_to(finished.results).as_posix() for path in finished.results.glob(pattern)}
        assert there
        assert there <= files, pattern
    links = page.eval_on_selector_all("a", "all => all.map(one => one.getAttribute('href'))")
    assert all(link.startswith("#") for link in links), "a link leads out of the file"
    shown = [link.removeprefix("#show=") for link in links if link.startswith("#show=")]
    assert set(shown) <= files
    assert any("/browser/" in name for name in shown)
    assert any("/demonstration/" in name for name in shown)
    known = set(page.eval_on_selector_all("[id]", "all => all.map(one => one.id)"))
    assert {link[1:] for link in links if not link.startswith("#show=")} <= known
    wanted = page.eval_on_selector_all("[data-file]", "all => all.map(one => one.dataset.file)")
    assert set(wanted) <= files
    assert problems == []


def test_every_figure_is_drawn(browser, alone):
    page, problems = front(browser, alone)
    sections = page.eval_on_selector_all("section:has(img)", "all => all.map(one => one.id)")
    assert len(sections) >= 8
    for section in sections:
        go(page, section)
        page.wait_for_function(
            "id => [...document.querySelectorAll(`#${id} img`)].every(one => one.complete && one.naturalWidth > 100)",
            arg=section,
        )
    assert problems == []


def test_data_can_be_downloaded_and_are_those_of_the_run(browser, alone, finished):
    page, problems = front(browser, alone)
    go(page, "grokking")
    figure = page.locator(f"article[data-name='{FIGURE}.svg']")
    for ending, name in (("csv", "Data (CSV)"), ("json", "Caption and sources (JSON)")):
        with page.expect_download() as waiting:
            figure.get_by_role("button", name=name).click()
        wanted = finished.results / f"{FIGURE}.{ending}"
        assert waiting.value.suggested_filename == f"{FIGURE}.{ending}".replace("/", "-")
        with open(waiting.value.path(), "rb") as got:
            assert got.read() == wanted.read_bytes()
    stored = json.loads(wanted.read_text())["caption"]
    assert stored.endswith(" Scale smoke.")  # which the report says on its front page
    assert stored.removesuffix(" Scale smoke.") in re.sub(r"\s+", " ", figure.locator(".caption").inner_text())
    assert problems == []


def test_pages_are_shown_inside_the_report(browser, alone):
    page, problems = front(browser, alone)
    for name in page.eval_on_selector_all("#front .pages a[href$='.html']", "all => all.map(one => one.hash.slice(6))"):
        go(page, f"show={name}")
        page.wait_for_selector("iframe[src]")
        frame = page.frame_locator("iframe")
        frame.locator("h1").first.wait_for(timeout=60_000)
        assert page.locator("iframe").get_attribute("title")
        page.locator("iframe").evaluate("one => one.remove()")
    assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_every_view_has_names_headings_and_landmarks(browser, alone, width, scheme):
    page, problems = front(browser, alone, viewport={"width": width, "height": 844}, color_scheme=scheme)

    def view(what):
        assert missed(page) == [], what
        assert violations(page) == [], what
        assert page.evaluate("document.documentElement.scrollWidth") <= width, what

    for address in VIEWS:
        go(page, address)
        view(address)
    go(page, "grokking")
    names = [node["name"] for node in tree(page) if node["role"] in ("image", "img")]
    [name] = [name for name in names if name.startswith("Memorised first")]
    assert "logarithmic step axis" in name, "the caption says what the figure shows"
    assert page.locator("nav a[aria-current]").inner_text() == "Grokking"
    assert page.title() == "Grokking – Landmarks"
    assert [node for node in tree(page) if node["role"] == "status" and node["id"]]
    page.click("nav >> text=Claims")
    page.frame_locator("iframe").locator("h1").wait_for()
    view("claims")
    assert page.locator("nav a[aria-current]").inner_text() == "Claims"
    page.fill("nav input", "frequencies")
    view("search")
    assert problems == []


def test_the_search_finds_figures_by_words_and_says_how_many(browser, alone):
    page, problems = front(browser, alone)
    page.fill("nav input", "grokking")
    page.press("nav input", "Enter")
    links = page.locator("#search li a")
    assert links.count() >= 3
    page.wait_for_function(
        "count => document.getElementById('said').textContent === count", arg=f"{links.count()} found"
    )
    page.click("#search li >> text=Key frequencies in the embedding")
    page.wait_for_selector("#grokking h3:has-text('Key frequencies in the embedding')")
    page.fill("nav input", "no such words")
    assert links.count() == 0
    page.fill("nav input", "")
    page.wait_for_selector("#grokking", state="visible")
    assert problems == []


def test_the_keyboard_reaches_everything_in_order(browser, alone):
    page, problems = front(browser, alone)
    reached = focus_order(page, 14)
    names = [name for name, _, _ in reached]
    assert names[:2] == ["Skip to the content", "Landmarks"]
    assert names.index("Claims") < names.index("Paper") < names.index("Feature steering"), "the order is that shown"
    assert all(visible for _, visible, _ in reached), reached
    assert all(inside for _, _, inside in reached), reached
    page.locator("a.skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#front a:has-text('Grokking')").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#grokking h2")
    assert page.evaluate("document.activeElement.textContent") == "Grokking", "the pressed link is gone, and the focus"
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.dataset.file"), "data cannot be reached by keyboard"
    page.go_back()
    page.wait_for_selector("#front h2")
    assert problems == []


def test_what_is_missing_would_be_found(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        "<html><body><h2>a</h2><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' width=9 height=9>"
        "<button></button><input><table><tr><th></th></tr><tr><td>1</td></tr></table></body></html>"
    )
    page, _ = opened(browser, path)
    found = " ".join(missed(page))
    for word in ("language", "image has no name", "button has no name", "textbox", "0 headings", "0 main"):
        assert word in found, found
