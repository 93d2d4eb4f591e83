"""`stgt data check` finds out facts about a file, and compares a reader's frames with those that players show."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.clips import grey, write_video
from helpers.pictures import write_apng
from PIL import Image

from stgt.data import inspection
from stgt.data.inspection import inspect

CLIPS = Path(__file__).parents[1] / "assets" / "clips"
LIMIT = {"max_pixels": 1_000_000}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("numbered") / "a.mp4", grey(40), crf="0")


def decord_of(path):
    pytest.importorskip("decord", reason="decord has no wheels for this machine")
    return inspect(path, "decord", shown=inspect(path, "pyav", **LIMIT).pictures, **LIMIT)


def test_a_video_is_described(numbered):
    found = inspect(numbered, "pyav", **LIMIT)
    assert found.cause is None and found.pictures.shape == (40, 16, 16, 3)
    assert found.facts == {
        "bytes": numbered.stat().st_size, "container": "mov,mp4,m4a,3gp,3g2,mj2", "codec": "h264", "rate": 8.0,
        "rotation": 0, "duration": 5.0, "width": 32, "height": 32, "frames": 40,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, codec, frames",
    [("x264_g50.avi", "h264", 250), ("mpeg4_bf2.avi", "mpeg4", 250), ("cut_3.3.mp4", "h264", 102),
     ("x264_g50.ts", "h264", 250), ("av1.webm", "av1", 50), ("live8.webm", "vp8", 50), ("pil.gif", "gif", 10)],
)  # fmt: skip
def test_files_of_other_encoders_are_read_right(name, codec, frames):
    found = inspect(CLIPS / name, "pyav", **LIMIT)
    assert (found.facts["codec"], found.facts["frames"], found.cause) == (codec, frames, None)


@pytest.mark.parametrize(
    "name, cause",
    [
        ("x264_g50.avi", "other frames: frame 62 of decord is the one that players show as 12"),
        ("cut_3.3.mp4", "other frames: decord finds 135 of them, and players show 102"),
        ("x264_g50.ts", "other frames: frame 0 of decord is the one that players show as 50"),
        ("av1.webm", "decord has no decoder for av1"),
        ("live8.webm", "decord cannot read a file that does not tell how long it is"),
    ],
)
def test_the_fault_of_decord_is_told(name, cause):
    assert decord_of(CLIPS / name).cause == cause


def test_files_that_decord_reads_right_are_not_listed(numbered, real_clips):
    for path in (numbered, real_clips[-1]):
        assert decord_of(path).cause is None


def test_images_are_described_and_compared_too(tmp_path):
    found = inspect(CLIPS / "phone.jpg", "pyav", **LIMIT)
    assert found.cause is None
    size = (CLIPS / "phone.jpg").stat().st_size
    assert found.facts == {"bytes": size, "codec": "JPEG", "width": 100, "height": 200, "frames": 1}
    shades = [(Image.new("RGB", (9, 9), (20 * k, 0, 0)), 0, 0, 0, 0, 100) for k in range(12)]
    found = inspect(write_apng(tmp_path / "a.png", shades), "pyav", **LIMIT)
    assert (found.facts["codec"], found.facts["frames"], found.cause) == ("PNG", 12, None)


def test_the_known_facts_about_a_broken_file_are_told_with_the_cause(numbered, tmp_path):
    found = inspect(numbered, "pyav", max_pixels=1000)
    assert "32x32" in found.cause and found.pictures is None
    assert inspect(tmp_path / "gone.mp4", "pyav", **LIMIT).cause == "no such file"
    (tmp_path / "unknown.avi").write_bytes((CLIPS / "x264_g50.avi").read_bytes().replace(b"H264", b"ZZ9Z"))
    found = inspect(tmp_path / "unknown.avi", "pyav", **LIMIT)
    assert found.cause == "this FFmpeg has no decoder for the codec of the video track"
    shutil.copy(CLIPS / "phone.jpg", tmp_path / "image.mp4")
    assert inspect(tmp_path / "image.mp4", "pyav", **LIMIT).facts["codec"] == "JPEG"


@pytest.mark.parametrize(
    "asked, cause",
    [
        (8, "frame 0 is another one when 8 frames are read than when all are"),
        (1, "frame 35 is another one when it is read alone than when all are"),
    ],
)
def test_a_frame_that_is_another_one_when_few_are_read_is_found(numbered, monkeypatch, asked, cause):
    read = inspection.read_clip

    def altered(path, frames, *args, **options):
        clip = read(path, frames, *args, **options)
        return clip._replace(frames=clip.frames + 1) if frames == asked else clip

    monkeypatch.setattr(inspection, "read_clip", altered)
    assert inspect(numbered, "pyav", **LIMIT).cause == cause


def test_colours_that_differ_by_rounding_are_the_same_frames():
    frames = np.stack(grey(40))
    shown = np.stack([frame[:16, :16] for frame in frames])
    assert inspection.other_frame(5, frames[5] + np.uint8(1), shown) is None
    assert inspection.other_frame(5, frames[7] + np.uint8(1), shown) == 7
