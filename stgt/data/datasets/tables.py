"""Parts of the tables and JSON files that data sets come in."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from stgt.data.lines import read_lines


def rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file whose first line is a header that has these columns.

    Raises ValueError, naming the file and the row, for a missing column, a row that is cut short, and what is not CSV.
    """
    # The csv module refuses a carriage return in a field without quotes, so it becomes a space.
    table = csv.DictReader(re.sub(r"\r(?!\n|$)", " ", line) for line in read_lines(path))
    try:
        if missing := [column for column in columns if column not in (table.fieldnames or ())]:
            raise ValueError(
                f"{path}: no column {', '.join(missing)} among {table.fieldnames}, expected them in line 1"
            )
        for number, row in enumerate(table, start=1):
            if any(row[column] is None for column in columns):
                raise ValueError(f"{path}: row {number} is cut short, expected {', '.join(columns)}")
            yield row
    except csv.Error as error:
        raise ValueError(f"{path}: the row after line {table.line_num} is not CSV ({error})") from None


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
