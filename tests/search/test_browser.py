"""The page works in a real browser: typing, playing from a moment, the keyboard, pictures, and a narrow screen."""

import shutil

import av
import numpy as np
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
SOUND = "sound.mp4"
NAME = "<img src=x onerror=document.title='hacked'>.webm"


@pytest.fixture(scope="module")
def server(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(films, folder / "films")
    film(folder / "films" / NAME, ("blue", 10), ("red", 10), codec="libvpx")
    without_picture(folder / "films" / SOUND)
    index = stgt.Index(folder / "films.index", Colours())
    index.update(folder / "films", window=4, stride=2, workers=1)
    with served(index) as server:
        yield server


def without_picture(path):
    """Writes a video whose sound the browser can play, while its pictures are MPEG-4 Part 2, which browsers cannot."""
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("mpeg4", rate=8), container.add_stream("aac", rate=8000)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        for _ in range(32):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        for part in range(31):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, 1024 * part
            container.mux(sound.encode(samples))
        container.mux(pictures.encode())
        container.mux(sound.encode())


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
    playwright.expect(page.locator("#status")).to_contain_text("moments of 5 videos")
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


def test_a_video_without_a_picture_for_this_browser_shows_its_frames_and_plays_no_sound(page):
    page.locator("#query").fill("nothing")
    card = page.locator(".card", has_text=SOUND).first
    card.click()
    playwright.expect(page.locator("#fault")).to_contain_text("This browser cannot play the file")
    playwright.expect(page.locator("#video")).to_be_hidden()
    assert page.evaluate("document.querySelector('video').paused")
    assert page.locator("#stills button").count() == 4


def test_a_video_that_is_gone_is_named_as_gone(page, server, tmp_path):
    page.locator("#query").fill("yellow")
    card = page.locator(".card", has_text="b.mp4").first
    playwright.expect(card).to_be_visible()
    [path] = (path for path in server.index().files if path.name == "b.mp4")
    path.rename(tmp_path / "b.mp4")
    try:
        card.click()
        playwright.expect(page.locator("#fault")).to_contain_text("the file cannot be opened any more")
    finally:
        shutil.move(tmp_path / "b.mp4", path)


def test_another_search_in_the_address_is_answered(page):
    page.locator("#query").fill("red")
    playwright.expect(page.locator("#status")).to_contain_text("for “red”")
    page.evaluate("location.hash = '#blue'")
    playwright.expect(page.locator("#status")).to_contain_text("for “blue”")
    assert page.locator("#query").input_value() == "blue"


def test_an_answer_with_the_focus_is_not_behind_the_search_field(page):
    page.set_viewport_size({"width": 500, "height": 600})
    page.locator("#query").fill("red")
    playwright.expect(page.locator("#status")).to_contain_text("for “red”")
    page.locator(".card").last.focus()
    for _ in range(page.locator(".card").count() - 1):
        page.keyboard.press("ArrowUp")
        top = page.evaluate("document.activeElement.getBoundingClientRect().top")
        assert top >= page.evaluate("document.querySelector('header').getBoundingClientRect().bottom - 3")


def test_more_answers_come_below_those_that_are_there(page, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name, ("red", 30))
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path, window=1, stride=1, workers=1)
    with served(index) as server:
        page.goto(server.url)
        page.locator("#query").fill("red")
        playwright.expect(page.locator(".card")).to_have_count(24)
        first = page.locator(".card .time").all_inner_texts()
        page.locator("#more").click()
        playwright.expect(page.locator(".card")).to_have_count(48)
        assert page.locator(".card .time").all_inner_texts()[:24] == first
        assert page.evaluate("[...document.querySelectorAll('.card')].indexOf(document.activeElement)") == 24
        page.locator("#more").click()
        playwright.expect(page.locator(".card")).to_have_count(60)
        playwright.expect(page.locator("#more")).to_be_hidden()
        page.locator("#query").fill("")
        playwright.expect(page.locator(".card")).to_have_count(0)


def test_the_page_says_that_its_server_has_ended(page):
    page.route("**/search*", lambda route: route.abort("connectionrefused"))
    page.locator("#query").fill("blue")
    playwright.expect(page.locator("#status")).to_have_text(
        "No answer: stgt serve does not answer. Is it still running?"
    )


def test_choosing_a_word_with_the_arrow_keys_does_not_leave_the_search_field(page):
    page.locator("#query").fill("red")
    playwright.expect(page.locator("#status")).to_contain_text("for “red”")
    down = "query.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true, isComposing: %s}))"
    page.evaluate(down % "true")  # an input method for Japanese offers words below the field
    assert page.evaluate("document.activeElement.id") == "query"
    page.evaluate(down % "false")
    assert page.evaluate("document.activeElement.className") == "card"


def test_a_screen_reader_hears_all_that_is_written_on_an_answer(page):
    page.locator("#query").fill("yellow")
    playwright.expect(page.locator("#status")).to_contain_text("for “yellow”")
    card = page.locator(".card", has_text="b.mp4").first
    playwright.expect(card).to_have_accessible_name("0:00 – 0:03 b.mp4 1.000")
