"""The time that the work on one file may take."""

from __future__ import annotations

import time
from pathlib import Path

from stgt.data.errors import VideoError


class Deadline:
    def __init__(self, path: str | Path, seconds: float | None) -> None:
        """The time begins now. seconds: None for no limit."""
        self._path, self._seconds = path, seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Raise VideoError if the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            raise VideoError(
                f"{self._path}: decoding did not end within {self._seconds:g} s, the deadline for one file"
            )
