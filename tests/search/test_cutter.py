"""A film whose shots cannot be found is left out of an index, with the cause."""

import time
from dataclasses import replace

import pytest
from helpers.colours import Colours
from PIL import Image

from stgt.data.errors import VideoError
from stgt.data.isolated import Failure
from stgt.search import cutter
from stgt.search.manifest import Settings

SHOTS = Settings("", "", 4.0, 4.0, shots=True)


def endless(span, decoding):
    time.sleep(3600)


def broken(span, decoding):
    raise VideoError(f"{span.path}: broken video")


@pytest.mark.parametrize(
    ("find", "timeout", "cause"),
    [(endless, 0.2, "decoding did not end within 0.2 s"), (broken, 60.0, "broken video")],
)
def test_a_film_whose_shots_cannot_be_found_fails_alone(find, timeout, cause, films, monkeypatch):
    monkeypatch.setattr(cutter, "boundaries", find)
    opened = cutter.Cutter(SHOTS, Colours().pixels, timeout=60.0)
    opened._finder._timeout = timeout  # opening the film may take longer
    try:
        assert opened.windows(films / "a.mp4") == Failure(cause)
    finally:
        opened.stop()


def test_a_film_that_is_gone_fails_alone(tmp_path):
    opened = cutter.Cutter(SHOTS, Colours().pixels, timeout=60.0)
    try:
        assert opened.windows(tmp_path / "gone.mp4") == Failure("no such file")
    finally:
        opened.stop()


@pytest.mark.parametrize("shots", [False, True])
def test_an_image_is_one_window_and_a_film_is_cut(films, tmp_path, shots):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    opened = cutter.Cutter(replace(SHOTS, shots=shots), Colours().pixels, timeout=60.0)
    try:
        assert opened.windows(tmp_path / "a.png") == [(0, 0)]
        cuts = [(0, 4), (4, 6), (6, 10), (10, 12), (12, 16), (16, 18)]
        assert opened.windows(films / "a.mp4") == (cuts if shots else [(4 * i, min(4 * i + 4, 18)) for i in range(5)])
    finally:
        opened.stop()
