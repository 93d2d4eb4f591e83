"""Text files in lines. Whatever is wrong with a file is a ValueError that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stgt.paths import no_such_file


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text in UTF-8, each with its end, which is a line feed or CRLF. A byte order mark is left out.

    Raises ValueError that names the file if there is none, if it is a folder, and if a line is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}: line {number} is not UTF-8 ({error}), expected text in UTF-8") from None
    except FileNotFoundError:
        raise ValueError(no_such_file(path)) from None
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, expected a file") from None
