"""A film whose shots cannot be found is left out of an index, with the cause."""

import time

import pytest
from helpers.colours import Colours

from stgt.data.errors import VideoError
from stgt.data.isolated import Failure
from stgt.data.windows import Window
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


def test_a_film_that_goes_away_after_it_was_opened_fails_alone(tmp_path, monkeypatch):
    opened = cutter.Cutter(SHOTS, Colours().pixels, timeout=60.0)
    monkeypatch.setattr(opened._opener, "call", lambda path: [Window(0.0, 4.0)])
    assert opened.windows(tmp_path / "gone.mp4") == Failure("no such file")
