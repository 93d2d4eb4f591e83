"""A feature cache: a frozen tower's tokens, computed once, so that training runs without the tower.

A cache is a folder with four files. tokens.bin, bfloat16 (videos, views, T, 1+P, C), is memory-mapped. checksums.bin
has the SHA-256 of each view of each video. data.fingerprint is the fingerprint of the videos. features.json names the
videos, the key (everything else that decides the tokens), and the checksum of checksums.bin.
`stgt.data.write_features` writes the folder under another name and renames it when it is whole, so a folder of this
name is never half written. A view is compared with its checksum when it is read, everything else when the cache is
opened.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences
from stgt.fields import from_dict, require_types
from stgt.integrity import (
    DamagedError,
    damaged_row,
    read_sealed,
    require_hash,
)
from stgt.structure import field, shown

TOKENS, CHECKSUMS, INDEX = "tokens.bin", "checksums.bin", "features.json"
FORMAT = 2
"""Version of the format, which features.json names. Caches of version 0.1.0 of this package name none."""
_AGAIN = "remove the folder, and `stgt data features` writes it again"


@dataclasses.dataclass(frozen=True)
class FeatureKey:
    """Everything that tokens depend on except the files. Equal keys and equal files give equal tokens."""

    tower: str
    """`stgt.weights.tower.tower_hash` of the tower's weights and settings"""
    transform: str
    """`transforms.describe` of the transform"""
    frames: int
    sampling: str
    views: int
    """How often each video was read. If more than once, each reading drew its own frames and augmentation."""
    decoder: str
    """`stgt.data.video.decoder_version` of the decoder that read the videos"""

    def __post_init__(self) -> None:
        require_types(self)


class FeatureStore:
    """Reads a feature cache. `video in store` tells whether the cache has a video's tokens."""

    def __init__(self, folder: str | Path) -> None:
        """Open a cache. Raises ValueError if `folder` holds none, an incomplete one, or one of an earlier version."""
        self.folder = Path(folder)
        for name in (INDEX, TOKENS):
            if not (path := self.folder / name).is_file():
                raise ValueError(f"{folder} is no folder that `stgt data features` wrote: it has no {path}")
        size = (self.folder / TOKENS).stat().st_size
        self.key, self.shape, videos, checksums = _read_index(self.folder / INDEX)
        self._rows = {video: row for row, video in enumerate(videos)}
        if size != (expected := 2 * math.prod(self.shape)):
            raise ValueError(f"{self.folder / TOKENS} has {size} bytes, expected {expected}: write the cache again")
        require_hash(self.folder / CHECKSUMS, checksums)
        self._tokens: np.memmap | None = None
        self._checksums: np.memmap | None = None

    @property
    def views(self) -> int:
        return self.key.views

    def __contains__(self, video: str) -> bool:
        return video in self._rows

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tokens": None, "_checksums": None}  # each process maps the files itself

    def require(self, **expected: object) -> None:
        """Raise ValueError, naming each key that differs and both its values, unless the cache was made with these."""
        differing = [
            f"{name} is {getattr(self.key, name)!r} in the cache and {value!r} in this run"
            for name, value in expected.items()
            if getattr(self.key, name) != value
        ]
        if differing:
            raise ValueError(f"{self.folder} holds features of another kind: {'; '.join(differing)}")

    def changed_videos(self, root: str | Path, *, contents: bool = False) -> list[str]:
        """How the videos below `root` differ from those that the cache was made of. Missing videos do not count.

        contents: whether to compare the contents of the files as well, if the cache has their hashes.
        """
        then = Fingerprint.load(self.folder / FINGERPRINT)
        now = Fingerprint.take({}, then.names, root, decoder=then.decoder, contents=contents).completed(then, root)
        return data_differences(now, then, absent_is_same=True)

    def read(self, video: str, view: int = 0) -> Tensor:
        """Tokens of one view of a video: bfloat16 (T, 1+P, C). Raises DamagedError if their checksum differs."""
        if self._tokens is None:
            self._tokens = np.memmap(self.folder / TOKENS, np.int16, "r", shape=self.shape)
            self._checksums = np.memmap(self.folder / CHECKSUMS, np.uint8, "r", shape=(*self.shape[:2], 32))
        row = self._rows[video]
        tokens = torch.from_numpy(np.array(self._tokens[row, view])).view(torch.bfloat16)
        if damaged_row(tokens[None], torch.from_numpy(np.array(self._checksums[row, view]))[None]) is not None:
            raise DamagedError(
                f"{self.folder / TOKENS}: view {view} of {video} was changed or damaged after it was written: {_AGAIN}"
            )
        return tokens


def _read_index(path: Path) -> tuple[FeatureKey, tuple[int, ...], list[str], str]:
    """A cache's key, the shape of its tokens, its videos, and the SHA-256 of the file of checksums.

    Raises ValueError for an index that contradicts itself, or that another version wrote.
    """
    index, has_checksum = read_sealed(path)
    if not has_checksum and "format" in index:
        raise DamagedError(f"{path}: its own checksum is missing: {_AGAIN}")
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{path.parent} was written by another version of stgt, whose decoder may have read other frames: {_AGAIN}"
        )
    key, shape, videos = (field(index, *part, str(path)) for part in (("key", dict), ("shape", list), ("videos", list)))
    try:
        key = from_dict(FeatureKey, key)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(shape) != 5 or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"{path}: 'shape' is {shown(shape)}, expected 5 whole numbers above 0")
    if not all(isinstance(video, str) for video in videos) or len(set(videos)) != len(videos):
        raise ValueError(f"{path}: 'videos' is {shown(videos)}, expected a list of texts, each once")
    if shape[:2] != [len(videos), key.views]:
        raise ValueError(f"{path}: 'shape' is {shown(shape)}, expected it to begin with {[len(videos), key.views]}")
    return key, tuple(shape), videos, field(index, "checksums", str, str(path))
