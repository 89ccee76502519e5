"""The report as one file: everything inside it, and nothing that a screen reader or the keyboard would miss."""

import json
import re

import pytest

from tests.browser.accessibility import focus_order, missed, tree, violations
from tests.browser.chromium import opened

pytestmark = [pytest.mark.browser, pytest.mark.workflow]
FIGURE = "grokking/toy/delay/figures/delay"


@pytest.fixture
def alone(finished, tmp_path):
    """The report moved away from everything that lies beside it."""
    path = tmp_path / "report.html"
    path.write_bytes((finished.results / "report.html").read_bytes())
    return path


def front(browser, path, **options):
    page, problems = opened(browser, path, **options)
    page.wait_for_selector("h2:has-text('Verdicts')", timeout=10_000)
    page.evaluate("ready")
    return page, problems


def show(page, path):
    page.evaluate("path => showResult(path)", path)
    page.wait_for_selector("h1.ours")


def path_of(page, ending):
    return page.evaluate("ending => Object.keys(results).find(path => path.endsWith(ending))", ending)


def test_the_report_is_one_file_with_figures_pages_and_data(browser, alone, finished):
    page, problems = front(browser, alone)
    shown = page.evaluate("Object.keys(results)")
    drawn = [path for path in finished.results.glob("*/*/*/figures/*.svg")]
    assert {path.name for path in drawn} <= {path.split("/")[-1] for path in shown}
    assert page.evaluate("Object.values(results).every(one => /^(blob|data):/.test(one.data_uri))")
    links = page.eval_on_selector_all(".prose a", "all => all.map(one => one.getAttribute('href'))")
    assert all(link.startswith("javascript:") for link in links), "a link leads out of the file"
    buttons = page.eval_on_selector_all("[data-file]", "all => all.map(one => one.dataset.file)")
    assert len(buttons) >= len(drawn)
    assert page.evaluate("names => names.filter(name => !packed.files[name])", buttons) == []
    wanted = page.eval_on_selector_all("[data-result]", "all => all.map(one => one.dataset.result)")
    assert page.evaluate("names => names.filter(name => !results[name])", wanted) == []
    assert any("/browser/" in name for name in wanted)
    assert any("/demonstration/" in name for name in wanted)
    assert page.locator("[data-result]").first.is_visible()
    left_over = "<li><button data-result=older>left over</button></li>"
    add = "(one, html) => one.closest('ul').insertAdjacentHTML('beforeend', html)"
    page.eval_on_selector("[data-result]", add, left_over)
    page.wait_for_selector("text=left over", state="hidden")
    assert problems == []


def test_data_can_be_downloaded_and_are_those_of_the_run(browser, alone, finished):
    page, problems = front(browser, alone)
    show(page, path_of(page, f"{FIGURE}.svg"))
    for ending, name in (("csv", "Data (CSV)"), ("json", "Caption and sources (JSON)")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=name).click()
        wanted = finished.results / f"{FIGURE}.{ending}"
        assert waiting.value.suggested_filename == f"{FIGURE}.{ending}".replace("/", "-")
        with open(waiting.value.path(), "rb") as got:
            assert got.read() == wanted.read_bytes()
    stored = json.loads(wanted.read_text())["caption"]
    assert stored.endswith(" Scale smoke.")  # which the report says on its front page
    assert stored.removesuffix(" Scale smoke.") in re.sub(r"\s+", " ", page.inner_text(".ours.caption p"))
    assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_every_view_has_names_headings_and_landmarks(browser, alone, width, scheme):
    page, problems = front(browser, alone, viewport={"width": width, "height": 844}, color_scheme=scheme)
    figure, table = path_of(page, f"{FIGURE}.svg"), path_of(page, "claims.html")

    def view(what):
        assert missed(page) == [], what
        assert violations(page) == [], what
        assert page.evaluate("document.documentElement.scrollWidth") <= width, what

    view("front page")
    page.click(".prose a:has-text('Grokking')")
    page.click("nav >> text=Delay")
    page.wait_for_selector("nav table")
    view("menu of one replication")
    page.get_by_role("button", name=re.compile("^Show Memorised first")).click()
    page.wait_for_selector("h1.ours")
    view("a figure")
    [image] = [node for node in tree(page) if node["role"] in ("image", "img")]
    assert "Memorised first" in image["name"]
    assert "logarithmic step axis" in image["name"], "the caption says what the figure shows"
    assert [node for node in tree(page) if node["role"] == "status" and node["id"]]
    chosen = page.get_by_role("button", name=re.compile("^Show Memorised first"))
    assert chosen.get_attribute("aria-current") == "true"
    show(page, table)
    view("claims")
    assert page.locator("iframe").get_attribute("title")
    show(page, figure)
    assert page.locator("h1.ours").count() == 1
    page.get_by_role("button", name="Hide the menu").click()
    page.wait_for_selector("nav[inert]", state="attached")
    view("menu hidden")
    page.get_by_role("button", name="Show the menu").click()
    for content in ("rulegraph", "stats", "metadata"):
        page.evaluate("content => app.setView({content})", content)
        page.wait_for_timeout(300)
        assert missed(page) == [], content
        assert violations(page) == [], content
    assert page.locator("h1.ours").count() == 0, "the heading of another view stayed"
    assert problems == []


def test_the_keyboard_reaches_everything_in_order(browser, alone):
    page, problems = front(browser, alone)
    reached = focus_order(page, 14)
    names = [name for name, _, _ in reached]
    assert names[0] == "Skip to the content"
    assert names[1] == "Hide the menu"
    assert names.index("Workflow") < names.index("Claims"), "the menu comes in the order in which it is shown"
    assert all(visible for _, visible, _ in reached), reached
    assert all(inside for _, _, inside in reached), reached
    page.locator("a.skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator(".prose a:has-text('Grokking')").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("nav >> text=Delay")
    where = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(where) == "Menu: Results, Grokking", "the pressed link is gone, and the focus with it"
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('nav')")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.dataset.file"), "data cannot be reached by keyboard"
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
