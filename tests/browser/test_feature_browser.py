"""The feature browser in headless Chromium, on a page made from a tiny SAE with hostile text."""

import re

import pytest

from common.saes.browser import filled
from tests.browser.accessibility import missed, violations
from tests.browser.chromium import opened
from tests.fixtures.monosemanticity_tiny import WORDS as ONE_LAYER_WORDS
from tests.fixtures.monosemanticity_tiny import tiny_page
from tests.fixtures.saes_browser_tiny import WORDS, tiny_data

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(root, tmp_path_factory):
    template = (root / "common" / "saes" / "browser.html").read_text()
    made = tmp_path_factory.mktemp("browser") / "tiny.html"
    made.write_text(filled(template, tiny_data()))
    return made


@pytest.fixture
def page(browser, path):
    page, problems = opened(browser, path, viewport={"width": 1280, "height": 900})
    yield page
    assert problems == []
    assert page.evaluate("window.hacked") is None
    page.close()


def shown(page):
    return [int(row.get_attribute("data-latent")) for row in page.locator("#list button[data-latent]").all()]


def test_all_latents_are_listed_and_sorted(page):
    data = tiny_data()
    assert page.title() == "Feature browser: tiny-<i>k1</i>"
    assert sorted(shown(page)) == list(range(10))
    for by, key, sign in (("density", "density", -1), ("rare", "density", 1), ("largest", "largest", -1)):
        page.locator("#sort").select_option(by)
        assert shown(page) == sorted(range(10), key=lambda one: (sign * data[key][one], one))
    page.locator("#sort").select_option("index")
    assert shown(page) == list(range(10))


def test_search_by_number_and_by_token(page):
    page.locator("#search").fill("#7")
    assert shown(page) == [7]
    page.locator("#search").fill("DOG")
    assert 3 in shown(page)
    assert 9 not in shown(page)
    page.locator("#search").fill("no such token")
    assert shown(page) == []
    assert page.locator("#count").inner_text() == "0 of 10 latents"


def test_highlighting_follows_the_activations(page):
    page.locator('#list button[data-latent="1"]').click()
    assert page.locator("h2").inner_text() == "Latent 1"
    first, second = (page.locator(".contexts").first.locator(".context").nth(place) for place in (0, 1))
    assert first.locator("mark.peak").inner_text() == " cat"
    assert first.locator("mark").evaluate("one => one.style.getPropertyValue('--a').trim()") == "1"
    assert second.locator("mark.peak").evaluate("one => one.style.getPropertyValue('--a').trim()") == "0.5"
    assert first.locator("mark").get_attribute("title") == "activation 4"
    assert page.locator("#said").inner_text() == "Latent 1 shown"
    name = page.locator('#list button[data-latent="1"]').get_attribute("aria-label")
    assert re.fullmatch(r"#1 .*cat.*, coherence \d\.\d\d", name), "a screen reader says what the number is"
    page.locator('#list button[data-latent="9"]').click()
    assert page.locator("mark").count() == 0
    assert page.url.endswith("#latent-9")
    page.go_back()
    assert page.locator("h2").inner_text() == "Latent 1"


def test_text_of_the_corpus_stays_text(page):
    page.locator('#list button[data-latent="2"]').click()
    assert WORDS[2] in page.locator(".contexts").first.inner_text()
    assert page.locator("main b, main script, header i").count() == 0
    assert page.locator("script").count() == 2


def test_keys_move_through_the_list(page):
    page.locator("#sort").select_option("index")
    page.locator('#list button[data-latent="0"]').click()
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator('#list [aria-current="true"]').get_attribute("data-latent") == "2"
    page.keyboard.press("k")
    assert page.locator("h2").inner_text() == "Latent 1"
    page.keyboard.press("/")
    page.keyboard.type("jk8")
    assert page.locator("#search").input_value() == "jk8"
    assert page.locator("h2").inner_text() == "Latent 1"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") != "search"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_breaks_no_rule_of_wcag(browser, path, width, scheme):
    size = {"width": width, "height": 844}
    page, problems = opened(browser, path, viewport=size, color_scheme=scheme)
    page.locator('#list button[data-latent="8"]').click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert missed(page) == []
    assert violations(page) == []
    colours = page.evaluate(
        "['color', 'backgroundColor'].map(key => getComputedStyle(document.body)[key].match(/\\d+/g).map(Number))"
    )
    assert (sum(colours[1]) > sum(colours[0])) == (scheme == "light")
    assert problems == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_one_layer_model_has_explanations_and_its_text_stays_text(browser, tmp_path, width):
    page, problems = opened(browser, tiny_page(tmp_path), viewport={"width": width, "height": 800})
    assert shown(page)[0] in range(10)
    assert len(shown(page)) == 10
    page.locator('#list button[data-latent="0"]').click()
    note = page.locator("main .note").inner_text()
    assert note.startswith("fires on the tokens: ")
    assert "(correlation with prediction " in note
    assert page.locator("main mark").count() > 0
    assert any(word in page.locator("main").inner_text() for word in ONE_LAYER_WORDS[:2])
    assert page.locator("main b, main script").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert missed(page) == []
    assert problems == []
    page.close()
