"""Every file of a folder is found, and nothing else that lies there does any harm."""

import os
import socket

from stgt.data.folders import describe_special, find_files
from stgt.data.names import VIDEOS


def found(folder, **options):
    return find_files(folder, VIDEOS, **options)


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")
    return folder


def test_bare_streams_and_old_endings_are_found(tmp_path):
    names = ["a.qt", "animated.apng", "camera.H264", "film.m1v", "hevc.hevc", "ivf.ivf", "pi.mjpg", "tape.mpe"]
    assert found(make(tmp_path, *names)).files == names


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    folder = make(tmp_path / "films", "z/own.mp4", "z/deep/own.MKV")
    make(tmp_path / "elsewhere", "far.webm", "more/far.avi")
    (folder / "archive").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "z")  # which has a name of its own here
    (folder / "z" / "up").symlink_to(folder)
    (folder / "z" / "deep" / "out").symlink_to(tmp_path)  # from where everything is reached once more
    (folder / "alias.mp4").symlink_to(folder / "z" / "own.mp4")
    files, faults, unseen = found(folder)
    assert unseen == [] and files == [
        "alias.mp4",
        "archive/far.webm",
        "archive/more/far.avi",
        "z/deep/own.MKV",
        "z/own.mp4",
    ]
    assert faults == {}


def test_two_folders_that_link_to_each_other_end(tmp_path):
    make(tmp_path, "a/1.mp4", "b/2.mp4")
    for number in range(8):
        (tmp_path / "a" / f"to{number}").symlink_to(tmp_path / "b")
        (tmp_path / "b" / f"to{number}").symlink_to(tmp_path / "a")
    assert found(tmp_path / "a").files == ["1.mp4", "to0/2.mp4"]


def test_things_that_are_no_files_are_listed_with_their_causes(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "fine.mp4", "film.mp4/inside.mp4", "notes.txt", ".hidden/a.mp4", ".b.mp4"))
    os.mkfifo("pipe.mp4")
    os.mkfifo("pipe")
    os.symlink("nowhere", "gone.mp4")
    os.symlink("/not/mounted", "archive")
    os.symlink("loop.mp4", "loop.mp4")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket.avi")
    files, faults, unseen = found(tmp_path)
    assert files == ["film.mp4/inside.mp4", "fine.mp4"]
    assert unseen == ["archive", "gone.mp4", "loop.mp4"]
    assert faults == {
        "archive": "a link to a file or folder that is not there",
        "film.mp4": "a folder, expected a file; what is in it is looked through",
        "gone.mp4": "a link to a file or folder that is not there",
        "loop.mp4": "Too many levels of symbolic links",
        "pipe.mp4": "a named pipe, expected a file",
        "socket.avi": "a socket, expected a file",
    }


def test_a_folder_that_cannot_be_read_does_no_harm_to_others(tmp_path, monkeypatch):
    make(tmp_path, "a/1.mp4", "b/2.mp4", "c/3.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tmp_path) == (["a/1.mp4", "c/3.mp4"], {"b": "the folder cannot be read: Permission denied"}, ["b"])


def test_files_without_an_ending_are_found_where_they_are_asked_for(tmp_path):
    make(tmp_path, "training/123", "training/1.txt")
    assert found(tmp_path).files == [] and found(tmp_path, without_ending=True) == (["training/123"], {}, [])


def test_special_paths_are_described(tmp_path):
    assert describe_special(tmp_path) == "a folder, expected a file"
    assert describe_special(tmp_path / "none") == "no such file"
    assert describe_special("/dev/null") == "a device, expected a file"
    assert describe_special("a" * 300) == "File name too long"
    assert describe_special("a\0b") == "embedded null byte"
