"""Cuts videos into the windows of an index, in other processes, because a broken file may crash them or never end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stgt.data.errors import VideoError
from stgt.data.isolated import Failure, Worker
from stgt.data.shots import boundaries, cut_at, spans_of
from stgt.data.windows import Pixels, Window, windows_of
from stgt.search.manifest import Settings


class Cutter:
    """Cuts one video after the other as the settings of an index say. `stop` ends its processes."""

    def __init__(self, settings: Settings, pixels: Pixels, timeout: float) -> None:
        """timeout: seconds that opening a file, or looking through a minute of it, may take."""
        self._settings = settings
        find = partial(windows_of, length=settings.window, stride=settings.stride, pixels=pixels)
        self._opener = Worker(find, timeout)
        self._finder = Worker(partial(boundaries, decoding=pixels.decoding), timeout)

    def windows(self, path: Path) -> list[Window] | Failure:
        """The windows of a file, or why it cannot be cut."""
        windows = self._opener.call(str(path))
        if isinstance(windows, Failure) or not self._settings.shots:
            return windows
        try:
            spans, starts = spans_of(str(path), windows[-1].end), []
        except VideoError as error:  # the file has gone meanwhile
            return Failure(str(error).removeprefix(f"{path}: "))
        for span in spans:
            found = self._finder.call(span)
            if isinstance(found, Failure):
                return Failure(found.cause.removeprefix(f"{path}: "))
            starts += found
        return cut_at(starts, windows[-1].end, self._settings.window, self._settings.stride) if spans else windows

    def stop(self) -> None:
        self._opener.stop()
        self._finder.stop()
