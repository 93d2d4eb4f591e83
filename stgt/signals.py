"""A polite stop: a signal asks, and the command answers where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a command to stop"""
GRACE = 10.0
"""Seconds in which an interrupted command has to end. The exception may have come while Python held a lock"""
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

    interrupt: also raise Interrupted where the program is; if the block has not ended GRACE seconds later, the process
    does, with the status 128 + signal. Signals that come again change nothing, except that a
    Ctrl-C which comes PATIENCE seconds after the first signal raises Interrupted: somebody does not want to wait. A
    signal that was ignored before stays ignored, as `nohup` and `command &` have it.
    notice: what the first signal prints.
    """

    def __init__(self, *, interrupt: bool = False, notice: str = "") -> None:
        self.interrupt, self.notice = interrupt, notice
        self.received = 0
        self._since = 0.0
        self._before: dict[int, object] = {}
        self._alarm: object = None

    def __enter__(self) -> StopSignals:
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._alarm)
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
            self._alarm = signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
            signal.setitimer(signal.ITIMER_REAL, GRACE)
            raise Interrupted(number)

    def _take(self, number: int) -> None:
        """Note a signal here, and in whoever waits for signals around this: it was answered then."""
        self.received, self._since = number, time.monotonic()
        outer = getattr(self._before[number], "__self__", None)
        if isinstance(outer, StopSignals):
            outer._take(number)


def interruption_of(error: BaseException | None) -> Interrupted | None:
    """What an error was raised in consequence of: an interruption can break whatever the program was just doing."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def until_stopped(batches: Iterable, stop: StopSignals) -> Iterator:
    """The batches; raises Interrupted in place of the next one after a signal."""
    for batch in batches:
        if stop.received:
            raise Interrupted(stop.received)
        yield batch
