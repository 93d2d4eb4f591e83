"""A polite stop: a signal asks, the loop answers between two steps."""

from __future__ import annotations

import signal
from types import FrameType


class StoppedError(RuntimeError):
    """A run that was asked to stop, and did, with a checkpoint; `signum` is what asked."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignals:
    """While entered, SIGTERM and SIGINT are noted in `received`; the second one acts as it would have without us."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()
