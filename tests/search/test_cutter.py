"""A film whose shots cannot be found is left out of an index, with the cause."""

import time

import pytest
from helpers.colours import Colours

from stgt.data.errors import VideoError
from stgt.data.isolated import Failure
from stgt.search import cutter
from stgt.search.manifest import Settings


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
    opened = cutter.Cutter(Settings("", "", 4.0, 4.0, shots=True), Colours().pixels, timeout=60.0)
    opened._finder._timeout = timeout  # opening the film may take longer
    try:
        assert opened.windows(films / "a.mp4") == Failure(cause)
    finally:
        opened.stop()
