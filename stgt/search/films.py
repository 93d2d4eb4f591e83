"""Finds the videos of folders, and gives each one a name that changes when the file changes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from stgt.data.fingerprint import Fingerprint
from stgt.data.folders import find_files
from stgt.data.names import VIDEOS
from stgt.data.store import digest


def find_videos(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """The video files in a folder and in the folders inside it, by their endings, and why others cannot be read.

    Both are in alphabetical order. Linked folders are followed, and hidden files and folders are passed over. Raises
    ValueError if there is no video.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected a folder with videos")
    found = find_files(folder, VIDEOS)
    faults = {folder / name: cause for name, cause in found.faults.items()}
    if not found.files:
        raise ValueError(f"{folder} holds no video{first_fault(faults)}, expected files ending in {', '.join(VIDEOS)}")
    return [folder / name for name in found.files], faults


def first_fault(faults: dict[Path, str]) -> str:
    """The first of the files that cannot be read and its cause, as the end of a message."""
    path, cause = next(iter(faults.items()), (None, None))
    return "" if path is None else f"; {path}: {cause}"


def names_of(videos: list[Path], now: Fingerprint, faults: dict[Path, str], *settings: object) -> dict[str, Path]:
    """{a digest of its place, size, time of change (or contents), decoder and the settings: each video}.

    now: a fingerprint of the videos by their whole paths. Several links to one file count as one video. A file that is
    gone or cannot be opened is added to `faults`.
    """
    names: dict[str, Path] = {}
    rows = {name: row for row, name in enumerate(now.names)}
    for path in videos:
        row = rows[str(path)]
        try:
            if now.sizes[row] < 0:
                path.open("rb").close()  # this raises an error that says what is wrong
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            version = bytes(now.hashes[row]) if now.hashes[row].any() else int(now.times[row])
            key = (str(path.resolve()), int(now.sizes[row]), version, now.decoder, *settings)
            names.setdefault(digest(*key), path)
        except OSError as error:
            faults[path] = str(error.strerror)
    return names
