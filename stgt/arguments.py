"""The checks of arguments of the Python API. Each error names the argument, its value, and what was expected."""

from __future__ import annotations

from numbers import Integral, Real


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless the value is a whole number of at least `least`."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least {least}")


def require_number(name: str, value: object, expected: str) -> None:
    """Raise ValueError unless the value is a number, which may be infinite or NaN. expected: what it has to be."""
    if not isinstance(value, Real):
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def require_flag(name: str, value: object) -> None:
    """Raise ValueError unless the value is a bool, since a text such as "no" counts as true in Python."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected True or False")
