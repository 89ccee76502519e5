"""The site in headless Chromium: no errors, phone width, keyboard, WCAG; made from records and from a run."""

import shutil
import subprocess
import sys

import pytest

from common.publish.site import from_records
from common.publish.site_pages import Site
from common.publish.texts import chronological, title
from tests.browser.accessibility import focus_order, missed, violations
from tests.browser.chromium import opened

pytestmark = pytest.mark.browser
FOLDERS = ("common", "config", "docs", "envs", "figures", "paper", "replications")
PAGES = (
    "index.html",
    "superposition/index.html",
    "superposition/methods.html",
    "figures.html",
    "run.html",
    "claims.html",
    "glance.html",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    Site(from_records(), folder, "").write()
    return folder


def sound(browser, path, width, scheme):
    """Opens the page, and holds that it fits, has names for everything and breaks no rule."""
    page, problems = opened(browser, path, viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself scrolls sideways"
    assert missed(page) == []
    assert violations(page) == []
    assert problems == []
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_break_no_rule_of_wcag(browser, built, name, width, scheme):
    sound(browser, built / name, width, scheme).close()


def test_the_keyboard_reaches_cards_claims_and_controls(browser, built):
    page, problems = opened(browser, built / "index.html")
    names = [name for name, seen, inside in focus_order(page, 9) if seen and inside]
    assert names[:2] == ["Skip to the content", "Landmarks"]
    assert title(chronological()[0]) in names, "the first card"
    page.locator("h3 a:has-text('Superposition')").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/superposition/index.html")
    controls = page.locator("summary").first
    controls.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] li").count() >= 2, "every control of the landmark"
    assert problems == []


@pytest.mark.workflow
def test_the_site_of_a_run_has_its_figures_and_interactive_pages(browser, finished, root):
    for name in ("README.md", "CITATION.cff", "Snakefile", *FOLDERS):
        copying = shutil.copytree if (root / name).is_dir() else shutil.copy
        copying(root / name, finished.path / name, **({"dirs_exist_ok": True} if (root / name).is_dir() else {}))
    command = [sys.executable, "-m", "common.publish.site", "--scale", "smoke"]
    done = subprocess.run(
        command, cwd=finished.path, env=finished.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    site = finished.results / "site"
    page = sound(browser, site / "sparse_autoencoders" / "index.html", 390, "light")
    assert page.locator("figure img").count() >= 3
    page.click("a:has-text('Feature browser')")
    page.wait_for_selector("#list button")
    assert (site / "report.html").exists()
    assert list(site.glob("feature_steering/pages/**/page.html"))
    shutil.rmtree(site)
