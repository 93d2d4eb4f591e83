"""The pixels of every view of the videos that a feature cache is made of, and what becomes known when they are read."""

from __future__ import annotations

import itertools
import logging
from bisect import bisect_right
from collections.abc import Container, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stgt.data.errors import StoreError, VideoError
from stgt.data.fingerprint import Fingerprint
from stgt.data.manifest.rows import Manifest
from stgt.data.pixels import to_pixels
from stgt.data.samples import VideoDataset
from stgt.randomness import seeded

logger = logging.getLogger(__name__)


class Views(Dataset):
    """The rows of a cache, each one view of a video: its pixels, float32 (T, 3, S, S), and its state, int64 (8,).

    The state is 1 if the video could be read; 1 if the numbers behind it describe its file; and these six numbers
    (`Fingerprint.row`). They are 0 if the fingerprint of the cache covers the file or its shard. A video of a manifest
    that cannot be read has grey pixels.
    Raises VideoError for one of another annotation, and for a store that does not answer.
    """

    def __init__(
        self,
        parts: Sequence[VideoDataset],
        chosen: np.ndarray,
        views: int,
        seed: int,
        *,
        compared: Container[str] = frozenset(),
        contents: bool = False,
        bad: Container[str] = frozenset(),
    ) -> None:
        """chosen: the number of each distinct video, counted over all parts, int64 (videos,).

        compared: the names in the fingerprint of the cache. contents: whether the hash of a file is a part of its
        state. bad: names of videos of manifests that count as videos that cannot be read, and are not opened.
        """
        self.parts, self.views, self.seed, self.contents, self.bad = parts, views, seed, contents, bad
        self._chosen = torch.from_numpy(chosen)  # torch shares it with the processes that read
        self._starts = [*itertools.accumulate(map(len, parts), initial=0)]
        self._recorded = [_recorded(part, compared) for part in parts]
        self._last: tuple[int, list[int]] = (-1, [])  # the row of a video and its file, for its next view

    def __len__(self) -> int:
        return len(self._chosen) * self.views

    @property
    def decoding(self) -> dict[str, object]:
        return self.parts[0].decoding

    def _find(self, row: int) -> tuple[int, int]:
        """The number of a video's data set, and the video's number there."""
        number = int(self._chosen[row])
        part = bisect_right(self._starts, number) - 1
        return part, number - self._starts[part]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        row, view = divmod(number, self.views)
        part, index = self._find(row)
        clips = self.parts[part]
        if self._last[0] != row:
            self._last = row, self._file(part, index)
        file = self._last[1]
        with seeded(self.seed, view, row):
            try:
                if self.is_bad(number):
                    raise VideoError(f"{clips.videos[index]}: it is listed as bad")
                return clips.clip(index)["video"], torch.tensor([1, *file])
            except VideoError as error:
                if isinstance(error, StoreError) or not isinstance(clips.videos, Manifest):
                    raise
                logger.warning("%s; its pairs are replaced in training", error)
                grey = torch.full((1 if clips.videos.still(index) else clips.frames, 32, 32, 3), 127, dtype=torch.uint8)
                return to_pixels(grey, clips.transform), torch.tensor([0, *file])

    def _file(self, part: int, index: int) -> list[int]:
        """1 and the numbers of a video's file, or seven zeros if the fingerprint covers it or its shard."""
        clips, recorded = self.parts[part], self._recorded[part]
        if not (clips.videos.row(index).shard is None if recorded is None else recorded[index]):
            return [0] * 7
        taken = Fingerprint.take({}, [clips.videos[index]], clips.root, decoder="", contents=self.contents)
        return [1, *taken.row().tolist()]

    def name(self, number: int) -> str:
        """The name of a row's video."""
        part, index = self._find(number // self.views)
        return self.parts[part].videos[index]

    def is_bad(self, number: int) -> bool:
        """Whether a row's video is listed as bad and therefore not opened."""
        part, index = self._find(number // self.views)
        videos = self.parts[part].videos
        return isinstance(videos, Manifest) and videos[index] in self.bad

    def read(self, numbers: range) -> tuple[np.ndarray, np.ndarray]:
        """The pixels and states of some rows, (B, …), computed by one thread."""
        torch.set_num_threads(1)
        pixels, states = zip(*(self[number] for number in numbers), strict=True)
        return torch.stack(pixels).numpy(), torch.stack(states).numpy()


def _recorded(clips: VideoDataset, compared: Container[str]) -> Tensor | None:
    """Whether each file is recorded here, bool (videos,); None for a manifest, whose rows tell it."""
    if isinstance(clips.videos, Manifest):
        return None
    return torch.tensor([name not in compared for name in clips.videos], dtype=torch.bool)
