"""Prints text from files so that no character in it controls the terminal or breaks the output."""

from __future__ import annotations

import logging
import os
import re
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

NARROWEST = 40
"""The fewest columns that help is laid out for"""

# Control characters, marks that turn the writing direction around, line and paragraph separators, and surrogates,
# which stand for the bytes of file names that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """The text on one line, with escapes such as \\x1b, \\n and \\u202e for characters that would control a terminal.

    Letters of any script, emoji, quotes and backslashes stay as they are. A byte of a file name that is not UTF-8
    appears as \\xff.
    """
    return _UNSAFE.sub(_escape, str(text))


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else match[0].encode("unicode_escape").decode()


def printable_message(text: object) -> str:
    """Like `printable`, for an error or a log line whose indented list keeps its lines."""
    return "\n  ".join(map(printable, str(text).split("\n  ")))


def say(*lines: object) -> None:
    """Print each argument as one line of standard output."""
    print("\n".join(map(printable, lines)), flush=True)


def prepare() -> None:
    """Set up standard output, standard error and the log so that every text can be printed in any encoding.

    Help is laid out for at least NARROWEST columns, because its layout does not end in a few columns.
    """
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    for stream in _streams():
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    handler.addFilter(lambda record: not _prints_itself(record.name))
    logging.basicConfig(handlers=[handler])


def _prints_itself(name: str) -> bool:
    """Whether a library's logger has a handler of its own, as that of huggingface_hub, so that ours would repeat it."""
    library = logging.getLogger(name.partition(".")[0])
    return library is not logging.getLogger() and bool(library.handlers)


class _Formatter(logging.Formatter):
    """Log lines without control characters. A traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable_message(super().formatMessage(record))

    def formatException(  # noqa: N802
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the process without a message and with status 141, as other tools do, when its output has no reader left.

    This happens to a command before `| head -1`. Other broken pipes are ordinary errors.
    """
    try:
        try:
            yield
        finally:
            for stream in _streams():
                stream.flush()
    except BrokenPipeError as error:
        if not reader_left(error):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in _streams():  # Python flushes these streams once more when it ends
            os.dup2(nowhere, stream.fileno())
        sys.exit(128 + signal.SIGPIPE)


def reader_left(error: BaseException) -> bool:
    """Whether an exception was raised because nobody reads standard output or standard error any more."""
    return isinstance(error, BrokenPipeError) and any(map(_has_no_reader, _streams()))


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except OSError:  # streams in tests and notebooks have no descriptor
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _streams() -> list[TextIO]:
    """Standard output and standard error, as far as the process has them."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
