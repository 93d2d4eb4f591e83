"""A file with an edit list gives the frames that FFmpeg plays, in the same order, however they are read."""

import shutil
import subprocess

import numpy as np
import pytest
from helpers.edit_lists import Edit, with_edits
from helpers.numbered import Kind, number_in, write_numbered

from stgt.data import pyav_reader
from stgt.data.frame_index import _keys_if_none_is_hidden
from stgt.data.inspection import inspect
from stgt.data.video import MAX_PIXELS, read_clip, read_frames, sample_indices
from stgt.data.video_file import VideoFile

KIND = Kind(".mp4", "libx264", codec_options={"bf": "2"})
BEGIN = 0.08
"""The time in the track at which the first frame is shown: two B-frames of 1/25 s come before it in decoding"""
EMPTY, DWELL = None, 0.0

# Each list has the ranges of frames that ffmpeg 5.1 wrote for it with `-fps_mode passthrough`. FFmpeg shows the frames
# of a dwell at normal speed, and shows something in an empty entry unless the list begins with it.
LISTS = {
    "an empty entry first": ([Edit(0.48, EMPTY), Edit(1.2, 0.8)], [(20, 50)]),
    "two empty entries first": ([Edit(0.2, EMPTY), Edit(0.2, EMPTY), Edit(2.4, 0)], [(0, 60)]),
    "an empty entry between": ([Edit(0.8, 0), Edit(0.48, EMPTY), Edit(0.8, 1.2)], [(0, 20), (0, 10), (30, 50)]),
    "an empty entry last": ([Edit(1.2, 0), Edit(0.5, EMPTY)], [(0, 30), (0, 11)]),
    "a dwell first": ([Edit(0.8, 0.4, DWELL), Edit(1.2, 0.4)], [(10, 30), (10, 40)]),
    "a dwell between": ([Edit(0.6, 0), Edit(0.5, 0.6, DWELL), Edit(0.8, 0.64)], [(0, 28), (16, 36)]),
    "a dwell last": ([Edit(1.2, 0.4), Edit(0.8, 1.56, DWELL)], [(10, 40), (39, 59)]),
    "a part twice": ([Edit(0.8, 0), Edit(0.8, 0)], [(0, 20), (0, 20)]),
    "parts in another order": ([Edit(0.8, 1.2), Edit(0.8, 0)], [(30, 50), (0, 20)]),
    "three parts": ([Edit(0.4, 0.2), Edit(0.4, 1), Edit(0.4, 2)], [(5, 15), (25, 35), (50, 60)]),
    "half the speed": ([Edit(2.4, 0, 0.5)], [(0, 60)]),
    "an end after the last frame": ([Edit(9, 0.4)], [(10, 60)]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("edits") / "whole.mp4", KIND, 60)


@pytest.fixture(params=LISTS)
def edited(request, whole, tmp_path):
    """A file with an edit list, and the numbers of the frames that FFmpeg plays."""
    edits, ranges = LISTS[request.param]
    edits = [edit if edit.begins is None else edit._replace(begins=edit.begins + BEGIN) for edit in edits]
    expected = [number for first, stop in ranges for number in range(first, stop)]
    return with_edits(whole, edits, tmp_path / "edited.mp4"), expected


@pytest.mark.parametrize("edits", [None, *(edits for edits, _ in LISTS.values())], ids=["no list of ours", *LISTS])
def test_keyframes_are_searched_for_if_no_packet_is_hidden(edits, whole, tmp_path):
    path = whole if edits is None else with_edits(whole, edits, tmp_path / "edited.mp4")
    with VideoFile(path, max_pixels=MAX_PIXELS, deadline=None) as file:
        table, one_part = file.packet_table(), file.is_one_part()
        assert one_part == (edits is None or sum(edit.begins is not None for edit in edits) < 2)
        found = _keys_if_none_is_hidden(table) if one_part else None
        hidden = any(entry.is_discard for entry in table)
        keys = [place for place, entry in enumerate(table) if entry.is_keyframe]
        assert found == (keys if one_part and not hidden else None)
    assert edits is not None or found


@pytest.mark.parametrize("long", [False, True])
def test_the_frames_are_those_that_ffmpeg_plays(edited, long, monkeypatch):
    """long: as a film that is read by its table of packets."""
    if long:
        monkeypatch.setattr(pyav_reader, "LONG", 20)
    path, expected = edited
    clip = read_clip(path, None)
    assert [number_in(frame) for frame in clip.frames.numpy()] == expected
    assert (clip.times.diff() > 0).all() and clip.times[0] == 0
    for frames in (1, 8):
        taken = [number_in(frame) for frame in read_frames(path, frames).numpy()]
        assert taken == [expected[number] for number in sample_indices(len(expected), frames)]
    first, stop = len(expected) // 3, len(expected) // 3 + 9
    window = read_clip(path, None, start=clip.times[first].item(), end=clip.times[stop].item())
    assert [number_in(frame) for frame in window.frames.numpy()] == expected[first:stop]
    assert inspect(path, "pyav", max_pixels=MAX_PIXELS).cause is None


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg on PATH")
def test_the_recorded_frames_are_those_of_ffmpeg(edited):
    path, expected = edited
    command = ["ffmpeg", "-v", "error", "-i", path, "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    width, height = KIND.size
    assert [number_in(frame) for frame in np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)] == expected


def test_a_list_that_shows_nothing_is_refused(whole, tmp_path):
    path = with_edits(whole, [Edit(0, 0.4 + BEGIN)], tmp_path / "nothing.mp4")
    with pytest.raises(pyav_reader.VideoError, match=r"nothing.mp4: the video track has no frames"):
        read_frames(path, None)
