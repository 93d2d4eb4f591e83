"""The descriptions of options in help texts."""

from __future__ import annotations

import re

from docstring_parser.common import DocstringMeta


def join_lines() -> None:
    """Let help texts flow: the lines of each paragraph that a docstring has about an option are joined.

    tyro reads docstrings with docstring_parser. It prints an end of a line in them as one, in the middle of sentences.
    """
    init = DocstringMeta.__init__

    def joining(self: DocstringMeta, args: list[str], description: str | None) -> None:
        init(self, args, None if description is None else _joined(description))

    DocstringMeta.__init__ = joining


def _joined(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))
