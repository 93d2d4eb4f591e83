"""Tables for the terminal and for Markdown alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stgt.terminal import printable


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose columns line up in plain text, too."""
    cells = [list(map(_cell, line)) for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)


def _cell(text: str) -> str:
    """Text that ends no cell or line, begins no HTML tag, and is no mathematics."""
    return re.sub(r"[|$]|<(?=[A-Za-z/!?])", r"\\\g<0>", printable(text))
