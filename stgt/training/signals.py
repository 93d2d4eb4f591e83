"""A polite stop: a signal asks, and the command answers where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType

from stgt.data.processes import STOPPING

PATIENCE = 2.0
"""Seconds in which signals count as one: a launcher passes on what the terminal has sent to every process already"""


class StoppedError(RuntimeError):
    """A run that was asked to stop, and did, with a checkpoint; `signum` is what asked."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Interrupted(KeyboardInterrupt):
    """A command that ends where it is, because the signal `signum` asked for it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP are noted in `received` instead of ending the process.

    interrupt: also raise Interrupted where the program is. Signals that come again change nothing, except that a
    Ctrl-C which comes PATIENCE seconds after the first signal raises Interrupted: somebody does not want to wait. A
    signal that was ignored before stays ignored, as `nohup` and `command &` have it.
    notice: what the first signal prints.
    """

    def __init__(self, *, interrupt: bool = False, notice: str = "") -> None:
        self.interrupt, self.notice = interrupt, notice
        self.received = 0
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if number == signal.SIGINT and time.monotonic() > self._since + PATIENCE:
                raise Interrupted(number)
            return
        self._take(number)
        with suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
            os.write(2, self.notice.encode())
        if self.interrupt:
            raise Interrupted(number)

    def _take(self, number: int) -> None:
        """Note a signal here, and in whoever waits for signals around this: it was answered then."""
        self.received, self._since = number, time.monotonic()
        outer = getattr(self._before[number], "__self__", None)
        if isinstance(outer, StopSignals):
            outer._take(number)


def until_stopped(batches: Iterable, stop: StopSignals) -> Iterator:
    """The batches; raises Interrupted in place of the next one after a signal."""
    for batch in batches:
        if stop.received:
            raise Interrupted(stop.received)
        yield batch
