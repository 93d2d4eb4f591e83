"""Tables that can be read both on a terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stgt.terminal import printable


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text as well."""
    cells = [list(map(_cell, line)) for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)


def _cell(text: str) -> str:
    """The text with escapes, so that it does not end a cell or a line, or start an HTML tag or mathematics."""
    return re.sub(r"[|$]|<(?=[A-Za-z/!?])", r"\\\g<0>", printable(text))
