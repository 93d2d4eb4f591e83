"""The causes of errors that other packages raise, in one line, for the messages of this one."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an error's message, or "no reason given" if the message is empty."""
    return str(error).strip().partition("\n")[0] or "no reason given"


def cause_of(error: Exception) -> str:
    """The kind of an error and the first line of its message, such as "TimeoutError: the host does not answer"."""
    return f"{type(error).__name__}: {first_line(error)}"
