"""Parts of the tables and JSON files that data sets come in."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from stgt.data.lines import read_lines


def rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file whose first line is a header that has these columns, each with the line it begins in.

    Raises ValueError, naming the file and the line, for a column that is missing or there twice, a row that has fewer
    or more cells than the header, and what is not CSV.
    """
    # The csv module refuses a carriage return in a field without quotes, so it becomes a space.
    table = csv.reader((re.sub(r"\r(?!\n|$)", " ", line) for line in read_lines(path)), strict=True)
    line = 1
    try:
        header = next(table, [])
        for column in columns:
            if (count := header.count(column)) != 1:
                fault = f"{count} columns" if count else "no column"
                raise ValueError(f"{path}: {fault} {column} among {header}, expected one in line 1")
        line = table.line_num + 1
        for cells in table:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"{path}: the row in line {line} has {len(cells)} cells, expected the {len(header)} of the header; "
                    "a text that holds a comma or a quote has to stand in quotes"
                )
            if cells:
                yield line, dict(zip(header, cells, strict=True))
            line = table.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}: the row in line {line} is not CSV ({error}), expected quotes that close") from None


def text_of(path: Path, entry: object, key: str) -> str:
    """The text that an entry of a JSON file has under a key. Raises ValueError if there is none, or an empty one."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}: {str(entry)[:80]} has no text {key!r}")
    return value


def split_files(source: Path, patterns: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Each split with the one file in `source` that fits its pattern. Only "train" has to be there.

    Raises ValueError if several files fit a pattern, or if none fits that of "train".
    """
    for split, pattern in patterns.items():
        found = sorted(source.glob(pattern))
        if len(found) > 1:
            raise ValueError(f"{source} holds {', '.join(path.name for path in found)}, expected one {pattern}")
        if found:
            yield split, found[0]
        elif split == "train":
            raise ValueError(f"{source} holds no {pattern}, expected one")
