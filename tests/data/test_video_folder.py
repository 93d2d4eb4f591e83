"""Videos are found by their names, in any subfolder and container."""

import os

import pytest

from stgt.data.folders import find_files
from stgt.data.names import VIDEOS, name_of
from stgt.data.video_folder import VideoFolder


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")
    return folder


CLIP = "1001_American_Beauty_00.00.51.926-00.00.54.129"
"""A name of LSMDC's, which has dots of its own"""


def test_names_of_videos():
    assert name_of("a/video1.mp4") == name_of("video1") == "video1"
    assert name_of(f"film/{CLIP}.avi") == name_of(CLIP) == CLIP
    assert name_of("1@N0_2_x.m2ts") == name_of("1@N0_2_x.3g2") == name_of("1@N0_2_x.") == "1@N0_2_x"
    times = [f"{CLIP[:-3]}{milliseconds:03}" for milliseconds in range(1000)]
    assert [name_of(name) for name in times] == times
    assert name_of("x.MOV") == "x" and name_of("00000/000012.jpg") == "000012"


def test_an_ending_may_follow_the_whole_name(tmp_path):
    make(tmp_path, "1@N0_2_x.mov.mp4", "1@N0_2_x.mp4.mp4", "1@N0_3_y..mp4")
    folder = VideoFolder(tmp_path)
    assert folder.find("1@N0_2_x.mov") == "1@N0_2_x.mov.mp4" and folder.find("1@N0_2_x.mp4") == "1@N0_2_x.mp4.mp4"
    assert folder.find("1@N0_3_y.") == "1@N0_3_y..mp4" and folder.find("1@N0_4_z.mov") is None


def test_names_that_are_not_utf8_are_found(tmp_path, caplog):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"), "wb"):
        pass
    assert find_files(tmp_path, VIDEOS).files == ["caf\udce9.mp4"]
    videos = VideoFolder(tmp_path)
    assert videos.find("café.avi") is None
    assert "caf\udce9.mp4: the name is not UTF-8, expected one that an annotation can hold" in caplog.text


def test_thumbnails_are_no_videos_and_videos_are_no_images(tmp_path):
    make(tmp_path, "video1.mp4", "video1.jpg", "thumbs/video2.jpg", "video3.webm", "thumbs/video3.png", "video4")
    videos, images = VideoFolder(tmp_path), VideoFolder(tmp_path, images=True)
    assert [videos.find(f"video{n}.avi") for n in (1, 2, 3, 4)] == ["video1.mp4", None, "video3.webm", None]
    assert [images.find(f"video{n}.bmp") for n in (1, 2, 3, 4)] == [
        "video1.jpg", "thumbs/video2.jpg", "thumbs/video3.png", "video4"
    ]  # fmt: skip


def test_one_file_under_two_names_is_one_video(tmp_path, caplog):
    make(tmp_path, "a/video1.mp4")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "video1.mkv").symlink_to(tmp_path / "a" / "video1.mp4")
    os.mkfifo(tmp_path / "video2.mp4")
    videos = VideoFolder(tmp_path)
    assert videos.find("video1.avi") == "a/video1.mp4" and videos.find("video2.avi") is None
    assert f"left out, {tmp_path / 'video2.mp4'}: a named pipe, expected a file" in caplog.text
    make(tmp_path, "c/video1.mp4")
    with pytest.raises(ValueError, match="holds a/video1.mp4 and b/video1.mkv for video1.avi, expected one of them"):
        VideoFolder(tmp_path).find("video1.avi")
