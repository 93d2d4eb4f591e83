"""Cuts videos into the windows of an index, in other processes, because a broken file may crash them or never end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from stgt.data.cuts import Window
from stgt.data.isolated import Failure, Worker
from stgt.data.shots import boundaries, spans_of, windows_at
from stgt.data.windows import Pixels, windows_of
from stgt.search.manifest import Settings

Result = TypeVar("Result")


class Cutter:
    """Cuts one video after the other as the settings of an index say. `stop` ends its processes."""

    def __init__(self, settings: Settings, pixels: Pixels, timeout: float) -> None:
        """timeout: seconds that opening a file, or looking through a minute of it, may take."""
        self._shots = settings.shots
        self._how = {"length": settings.window, "stride": settings.stride, "pixels": pixels}
        self._opener = Worker(_call, timeout)
        self._finder = Worker(partial(boundaries, decoding=pixels.decoding), timeout)

    def windows(self, path: Path) -> list[Window] | Failure:
        """The windows of a file, or why it cannot be cut."""
        found = self._windows(str(path))
        return Failure(found.cause.removeprefix(f"{path}: ")) if isinstance(found, Failure) else found

    def _windows(self, path: str) -> list[Window] | Failure:
        spans = self._opener.call(partial(spans_of, path, self._how["pixels"])) if self._shots else []
        if isinstance(spans, Failure):
            return spans
        if not spans:
            return self._opener.call(partial(windows_of, path, **self._how))
        starts: list[float] = []
        for span in spans:
            found = self._finder.call(span)
            if isinstance(found, Failure):
                return found
            starts += found
        return self._opener.call(partial(windows_at, path, starts, **self._how))

    def stop(self) -> None:
        self._opener.stop()
        self._finder.stop()


def _call(function: Callable[[], Result]) -> Result:
    return function()
