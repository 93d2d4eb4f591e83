"""Finds the videos of folders, and gives each one a name that changes when the file changes."""

from __future__ import annotations

import errno
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stgt.data.fingerprint import Fingerprint
from stgt.data.folders import find_files
from stgt.data.names import VIDEOS
from stgt.data.store import digest


class Videos(NamedTuple):
    """The video files of a folder, in alphabetical order, and why others cannot be read."""

    files: list[Path]
    faults: dict[Path, str]
    unseen: list[Path]
    """Folders and links that cannot be read, and links that lead nowhere: nobody knows what lies in them"""


def find_videos(folder: Path) -> Videos:
    """The video files in a folder and in the folders inside it, by their endings.

    Linked folders are followed, and hidden files and folders are passed over. Raises
    ValueError if there is no video.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected a folder with videos")
    found = find_files(folder, VIDEOS)
    faults = {folder / name: cause for name, cause in found.faults.items()}
    if not found.files:
        raise ValueError(f"{folder} holds no video{first_fault(faults)}, expected files ending in {', '.join(VIDEOS)}")
    return Videos([folder / name for name in found.files], faults, [folder / name for name in found.unseen])


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
            names.setdefault(_name_at(str(path.resolve()), now, row, settings), path)
        except OSError as error:
            faults[path] = str(error.strerror)
    return names


def moved(
    names: dict[str, Path], now: Fingerprint, gone: Iterable[tuple[str, str]], *settings: object
) -> dict[str, str]:
    """{the name of a video that has moved to another folder: the name that it had there before}.

    names: those of new videos; now, settings: see `names_of`. gone: the places of files that are gone, and the names
    that they had. A video has moved if a file is gone that had the same name in its folder, the same size and the same
    time of change. If there are several such files or videos, nothing tells which is which, so none of them has moved.
    """
    places = defaultdict(list)
    for place, name in gone:
        places[os.path.basename(place)].append((place, name))
    rows = {name: row for row, name in enumerate(now.names)}
    found = {}
    for name, path in names.items():
        here = places.get(path.name, ())
        fits = [then for place, then in here if _name_at(place, now, rows[str(path)], settings) == then]
        if len(fits) == 1:
            found[name] = fits[0]
    videos = Counter(found.values())
    return {name: then for name, then in found.items() if videos[then] == 1}


def _name_at(place: str, now: Fingerprint, row: int, settings: tuple[object, ...]) -> str:
    """The name that the file in a row of a fingerprint has if it lies at `place`."""
    version = bytes(now.hashes[row]) if now.hashes[row].any() else int(now.times[row])
    return digest(place, int(now.sizes[row]), version, now.decoder, *settings)
