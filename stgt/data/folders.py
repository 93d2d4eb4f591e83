"""Finding the files in a folder and its subfolders, whatever else lies there."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """Paths relative to the folder, in alphabetical order, and why others cannot be read."""

    files: list[str]
    faults: dict[str, str]
    unseen: list[str]
    """Folders and links that cannot be read, and links that lead nowhere: nobody knows what lies in them"""


def find_files(folder: str | Path, endings: Sequence[str], *, without_ending: bool = False) -> Found:
    """The ordinary files whose names have one of `endings`, in capital or small letters.

    without_ending: whether files without any ending are found as well.
    Linked folders are followed. Each folder is searched once, under its own name if it lies below `folder`, so links
    that lead back to a folder above do no harm. Hidden files and folders, whose names begin with a dot, are passed
    over. The faults are things with such an ending that are no ordinary files, folders that cannot be read, and links
    that lead nowhere. Nothing that lies there raises an exception.
    """
    scan = _Scan(folder, tuple(endings), without_ending)
    while scan.folders or scan.linked:
        scan.look_through((scan.folders or scan.linked).popleft())
    return Found(sorted(scan.files), dict(sorted(scan.faults.items())), sorted(scan.unseen))


class _Scan:
    """The state of a search: what was found, and the folders that are left. Folders behind links come last."""

    def __init__(self, root: str | Path, endings: tuple[str, ...], without_ending: bool) -> None:
        self.root, self.endings, self.without_ending = str(root), endings, without_ending
        self.folders, self.linked = deque([""]), deque[str]()
        self.files: list[str] = []
        self.faults: dict[str, str] = {}
        self.unseen: list[str] = []
        self._seen: set[str] = set()

    def look_through(self, below: str) -> None:
        folder = os.path.join(self.root, below)
        try:
            place = os.path.realpath(folder, strict=True)
            if place in self._seen:
                return
            self._seen.add(place)
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            self.faults[below or "."] = f"the folder cannot be read: {error.strerror}"
            self.unseen.append(below or ".")
            return
        for entry in found:
            self._take(os.path.join(below, entry.name), entry)

    def _take(self, path: str, entry: os.DirEntry) -> None:
        ending = entry.name.lower().endswith(self.endings)
        wanted = ending or (self.without_ending and "." not in entry.name)
        try:
            if entry.is_dir():
                (self.linked if entry.is_symlink() else self.folders).append(path)
                if ending:
                    self.faults[path] = "a folder, expected a file; what is in it is looked through"
            elif wanted and entry.is_file():
                self.files.append(path)
            elif wanted or (entry.is_symlink() and not entry.is_file()):
                self.faults[path] = describe_special(entry.path)
                if entry.is_symlink():
                    self.unseen.append(path)
        except OSError as error:
            self.faults[path] = str(error.strerror)
            self.unseen.append(path)


def describe_special(path: str | Path) -> str:
    """A description of a path that is no ordinary file, for instance "a named pipe, expected a file"."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to a file or folder that is not there" if os.path.islink(path) else "no such file"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", error))
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return f"{kinds.get(stat.S_IFMT(mode), 'no ordinary file')}, expected a file"
