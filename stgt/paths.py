"""Paths that a user gives."""

from __future__ import annotations

import os
from pathlib import Path


def given_path(path: str | Path) -> Path:
    """The path that a text names, in which a first "~" is the user's home folder.

    Shells leave the "~" of `--out=~/films.index` as it is, and Python that of "~/films.index". Otherwise a folder with
    the name "~" would be made in the present folder.
    Raises ValueError for what is no path, and for an empty text, which would be the present folder. A text is empty by
    mistake, such as that of a variable that is not set.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"the path is {path!r}, expected the text or pathlib.Path of a file or a folder")
    if path == "":
        raise ValueError("the path is '', expected a file or a folder; the present folder is '.'")
    return Path(os.path.expanduser(path))


def no_such_file(path: str | Path) -> str:
    """The message for a file that is not there. It names the present folder if the path is relative to it.

    The configuration of a run has relative paths, which lead nowhere if a command runs in another folder.
    """
    return f"{path}: no such file" + ("" if Path(path).is_absolute() else f" in {Path.cwd()}")
