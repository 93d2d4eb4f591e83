"""Ends the writing of a feature cache when so many clips cannot be read that an outage is likely.

In place of a clip of a manifest that cannot be read, a feature cache holds the tokens of grey frames, and a mark.
Without these checks, a missing folder, disk or server would fill it with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from stgt.data.errors import VideoError, require_file
from stgt.data.manifest.rows import Manifest
from stgt.data.samples import VideoDataset
from stgt.data.shards.member import is_address, locate
from stgt.data.store import Store


def require_places(parts: Iterable[VideoDataset]) -> None:
    """Raise VideoError if a shard on this machine that a manifest names is missing, or the folder of its files is."""
    for part in parts:
        rows = part.videos
        if not isinstance(rows, Manifest):
            continue
        for shard in rows.shards():
            if not is_address(shard):
                require_file(locate(shard, part.root))
        if not part.root.is_dir() and any(not os.path.isabs(video) for video in rows.single_files()):
            raise VideoError(f"{part.root}: there is no such folder, expected the videos of {rows.annotation} below it")


class Streak:
    """Counts the videos in a row that were not read, and refuses too many of them."""

    def __init__(self, store: Store, videos: int, views: int, most: int) -> None:
        """most: the largest number in a row that is allowed; if there are no more `videos` than this, all but one."""
        self._store, self._views, self._most = store, views, min(most, videos - 1)
        self._videos: set[int] = set()
        self._files: list[str] = []

    def add(self, file: str, readable: Sequence[bool | None], names: Sequence[str]) -> None:
        """Take the next file, before it is written.

        readable: for each of its rows, whether it could be read, or None for a video that is listed as bad and does not
        count. names: the names of their videos, for the error.
        Raises VideoError for too many videos in a row. The files that hold them are removed first, so that a repeated
        command tries them again.
        """
        for row, fine, name in zip(self._store.items(file), readable, names, strict=True):
            if fine:
                self._videos.clear()
                self._files.clear()
            elif fine is not None:
                self._videos.add(row // self._views)
                if len(self._videos) > self._most:
                    self._refuse(name)
        if self._videos:
            self._files.append(file)

    def _refuse(self, name: str) -> None:
        for written in self._files:
            self._store.path(written).unlink(missing_ok=True)
        raise VideoError(
            f"{name}: it and the {len(self._videos) - 1} videos before it could not be read, expected at most "
            f"{self._most} in a row, because a missing folder, disk or server would look the same. The log tells each "
            "cause. Repeat the command when the videos are there; for videos that are broken, list them with "
            "`stgt data check` in --data.bad-list, or raise --data.max-replacements"
        )
