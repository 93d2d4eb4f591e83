"""Videos of colours and an index of them, which several files of tests search."""

import pytest
from helpers.colours import Colours, film

import stgt


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A folder with two films, a picture that moves, and a file that is no video."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "a.mp4", ("red", 6), ("green", 6), ("blue", 6))
    (folder / "more").mkdir()
    film(folder / "more" / "b.mp4", ("yellow", 3))
    film(folder / "more" / "c.mkv", ("blue", 5), ("yellow", 2.5))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="session")
def made(films, tmp_path_factory):
    """An index of the films. Tests copy it before they change it."""
    place = tmp_path_factory.mktemp("made") / "films.index"
    stgt.Index(place, Colours()).update(films, window=4, stride=2, workers=1)
    return place
