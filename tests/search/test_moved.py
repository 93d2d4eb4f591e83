"""An update mistakes no video for another one that was moved, and keeps what it has of videos behind broken links."""

import os
import shutil

import pytest
from helpers.colours import Colours, film

import stgt


@pytest.fixture
def index(tmp_path):
    """An index of two films that have the same name, size and time of change, and of another one."""
    videos = [tmp_path / "films" / name for name in ("a/1.avi", "b/1.avi", "c.avi")]
    for path, colour in zip(videos, ("red", "blue", "green"), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        film(path, (colour, 2))
    size = max(path.stat().st_size for path in videos)
    for path in videos:
        os.truncate(path, size)
        os.utime(path, ns=(0, 0))  # as images of containers set it
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", workers=1)
    return index


def test_a_file_that_is_gone_is_reported_also_if_another_one_has_its_name_size_and_time(index, tmp_path):
    seen = index.encoder.seen
    shutil.rmtree(tmp_path / "films" / "b")
    assert index.update(workers=1) == ([], [tmp_path / "films/b/1.avi"], {}) and index.encoder.seen == seen
    best = index.search("red", top=1)[0]
    assert best.path == tmp_path / "films/a/1.avi" and best.score > 0.99


def test_moved_files_that_cannot_be_told_apart_are_read_again(index, tmp_path):
    seen = index.encoder.seen
    (tmp_path / "films" / "a").rename(tmp_path / "films" / "z")
    (tmp_path / "films" / "b").rename(tmp_path / "films" / "y")
    assert index.update(workers=1).added == [tmp_path / "films/y/1.avi", tmp_path / "films/z/1.avi"]
    for colour, folder in (("red", "z"), ("blue", "y")):
        assert index.search(colour, top=1)[0].path == tmp_path / "films" / folder / "1.avi"
    assert index.encoder.seen == seen + 2


@pytest.mark.parametrize("linked", ["a", "c.avi"])
@pytest.mark.parametrize("cause", ["a link to a file or folder that is not there", "Too many levels of symbolic links"])
def test_a_video_behind_a_broken_link_stays_in_the_index(linked, cause, index, tmp_path):
    link, target = tmp_path / "films" / linked, tmp_path / "disk"
    link.rename(target)
    link.symlink_to(target)
    index.update(workers=1)
    seen, files = index.encoder.seen, index.files
    target.rename(tmp_path / "away")
    if "levels" in cause:
        target.symlink_to("disk")
    assert index.update(workers=1) == ([], [], {link: cause}) and index.files == files
    target.unlink(missing_ok=True)
    (tmp_path / "away").rename(target)
    assert index.update(workers=1) == ([], [], {}) and index.encoder.seen == seen
