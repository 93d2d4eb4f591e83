"""Errors for annotations that are not in the form in which they are published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_published_form(where: str) -> Iterator[None]:
    """Replace the errors of a value of another type or shape, or that is missing, by a ValueError that names `where`.

    Values that are often wrong are checked by readers themselves. Their errors, which say what was expected, stay.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if ", expected " in str(error):
            raise
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} is not in the published format ({cause})") from None
