"""Errors for annotations that are not in the form in which they are published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_published_form(where: str) -> Iterator[None]:
    """Turn errors that missing values, or values of a wrong type or shape, cause into a ValueError that names `where`.

    Readers check values that are often wrong themselves. Those errors say what was expected, and are not replaced.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if ", expected " in str(error):
            raise
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} is not in the published format ({cause})") from None
