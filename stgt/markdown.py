"""Tables for the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterable


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose columns line up in plain text, too."""
    cells = [list(header), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)
