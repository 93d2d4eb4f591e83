"""Options that several commands take, and checks of options."""

from __future__ import annotations

import sys
from typing import Annotated

from stgt.evaluation.options import MODEL

Model = Annotated[str, MODEL]


def refuse(expected: str, **given: object) -> None:
    """Raise ValueError if one of these options is given, that is, if it is neither None nor empty."""
    for name, value in given.items():
        if value is not None and value != ():
            raise ValueError(f"--{name.replace('_', '-')} is given, expected it {expected}")


def given(beginning: str) -> list[str]:
    """The options in the words of this command that have this beginning, also those with the default value."""
    return [word.partition("=")[0] for word in sys.argv[1:] if word.startswith(beginning)]


def require_positive(**counts: int | None) -> None:
    """Raise ValueError if one of these counts is given and below 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {count}, expected at least 1")
