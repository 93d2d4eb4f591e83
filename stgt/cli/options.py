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


def require_seed(seed: int | None) -> None:
    """Raise ValueError for a seed that is given and that a generator does not take."""
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}, expected at least 0 and below 2**63")
