"""The page works in a real browser: typing, playing from a moment, the keyboard, pictures, and a narrow screen."""

import shutil

import pytest
from helpers.colours import Colours, film
from helpers.serving import served
from PIL import Image

import stgt

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; run: pip install playwright, apt-get install chromium"
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; run: apt-get install chromium")
NAME = "<img src=x onerror=document.title='hacked'>.webm"


@pytest.fixture(scope="module")
def server(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(films, folder / "films")
    film(folder / "films" / NAME, ("blue", 10), ("red", 10), codec="libvpx")
    index = stgt.Index(folder / "films.index", Colours())
    index.update(folder / "films", window=4, stride=2, workers=1)
    with served(index) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page()
    page.set_default_timeout(60_000)
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    yield page
    page.close()
    assert not faults


def until(page, condition):
    """Waits for a condition in JavaScript. The page's own policy does not let playwright wait inside the page."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"still not true after a minute: {condition}")


def test_answers_come_while_typing_and_play_from_their_moment(page):
    playwright.expect(page.locator("#status")).to_contain_text("moments of 4 videos")
    page.locator("#query").press_sequentially("red", delay=30)
    card = page.locator(".card", has_text=NAME).first
    playwright.expect(page.locator("#status")).to_contain_text("for “red”")
    until(page, "[...document.images].some(image => image.naturalWidth === 1536)")
    start = int(card.locator(".time").inner_text().split(":")[1].split()[0])
    assert start >= 8
    card.click()
    until(page, "document.querySelector('video').readyState >= 2")
    assert start - 0.2 <= page.evaluate("document.querySelector('video').currentTime") <= start + 8
    assert page.locator("#title").inner_text() == NAME and page.title() == "Search your videos"
    page.locator("#stills button").nth(2).click()
    until(page, f"document.querySelector('video').currentTime >= {start + 1.9}")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#player")).to_be_hidden()


def test_the_keyboard_is_enough(page):
    page.keyboard.type("yellow")
    playwright.expect(page.locator("#status")).to_contain_text("for “yellow”")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[...document.querySelectorAll('.card')].indexOf(document.activeElement)") == 1
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#player")).to_be_visible()
    page.keyboard.press("m")
    playwright.expect(page.locator("#player")).to_be_hidden()
    playwright.expect(page.locator("#status")).to_contain_text("like 0:0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"


def test_a_picture_is_searched_by(page, tmp_path):
    Image.new("RGB", (40, 30), (30, 200, 30)).save(tmp_path / "green.png")
    page.locator("#file").set_input_files(tmp_path / "green.png")
    playwright.expect(page.locator("#status")).to_contain_text("like green.png")
    assert page.locator(".card .name").first.inner_text() == "a.mp4"


def test_a_phone_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#query").fill("red")
    playwright.expect(page.locator("#status")).to_contain_text("for “red”")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".card").first.click()
    assert page.evaluate("document.querySelector('#player').scrollWidth") <= 360
