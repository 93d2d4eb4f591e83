"""Signals that stop a command at a place where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a command to stop"""
NOTICE = "\nstopping after this step, with a checkpoint; another Ctrl-C stops at once, without a checkpoint\n"
"""Training prints this text when it is asked to stop."""
GRACE = 10.0
"""Seconds in which an interrupted command has to end. It may hang if the exception came while Python held a lock"""
PATIENCE = 2.0
"""Seconds in which signals count as one. A launcher repeats the signals that the terminal sends to every process"""


class StoppedError(RuntimeError):
    """A signal stopped a run, which wrote a checkpoint. `signum` is the number of the signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Interrupted(KeyboardInterrupt):
    """The signal `signum` stopped a command at once."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """A context in which SIGINT, SIGTERM and SIGHUP are noted in `received` and do not end the process.

    Later signals change nothing, with one exception: a Ctrl-C that comes PATIENCE seconds after the first signal raises
    Interrupted, since the user does not want to wait. A signal that was ignored before (by `nohup` or `command &`)
    stays ignored. A signal that a context around this one has received counts as received here, too, because Python
    ignores an exception that comes while it cleans up, and the command would go on.
    interrupt: whether the first signal raises Interrupted at once. If the block has not ended GRACE seconds later, the
    process ends with the status 128 + signal.
    notice: a text that the first signal prints.
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
        for number, handler in self._before.items():
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopSignals) and outer.received:
                self.received, self._since = outer.received, outer._since
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
        with suppress(OSError):  # SIGHUP means that the terminal may be gone
            os.write(2, self.notice.encode())
        if self.interrupt:
            self._alarm = signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
            signal.setitimer(signal.ITIMER_REAL, GRACE)
            raise Interrupted(number)

    def _take(self, number: int) -> None:
        """Note a signal here and in the contexts around this one, which then count it as handled."""
        self.received, self._since = number, time.monotonic()
        outer = getattr(self._before[number], "__self__", None)
        if isinstance(outer, StopSignals):
            outer._take(number)


def interruption_of(error: BaseException | None) -> Interrupted | None:
    """The interruption that caused an error, or None. An interruption can break anything that the program was doing."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def until_stopped(batches: Iterable, stop: StopSignals) -> Iterator:
    """Yields the batches. After a signal, raises Interrupted in place of the next one."""
    for batch in batches:
        if stop.received:
            raise Interrupted(stop.received)
        yield batch
