"""A feature cache: a frozen tower's tokens, computed once, so that training runs without the tower.

A cache is a folder. features.json names the videos and the key, that is, everything else that decides the tokens.
data.fingerprint is the fingerprint of the videos. The folder tokens-… is a `Store` of the tokens, bfloat16
(T, 1+P, C) for each view of each video. Its name is a digest of features.json, which holds the checksum of
data.fingerprint, so tokens of other videos or of another key are never read. `stgt.data.write_features` writes a cache.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from torch import Tensor

from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences
from stgt.data.store import Store, batches
from stgt.fields import from_dict, require_counts, require_types
from stgt.files import file_hash, tensors_hash
from stgt.integrity import DamagedError, read_sealed, require_hash
from stgt.structure import field, shown

INDEX = "features.json"
FORMAT = 3
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
    seed: int
    """Seed of the frames and augmentation that are drawn"""
    decoder: str
    """`stgt.data.video.decoder_version` of the decoder that read the videos"""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, views=1_000_000)


class FeatureStore:
    """Reads a feature cache. `video in store` tells whether the cache has a video's tokens."""

    def __init__(self, folder: str | Path, *, whole: bool = True) -> None:
        """Open a cache. Raises ValueError if `folder` holds none, or one of an earlier version, or a damaged one.

        whole: whether a cache that lacks tokens is refused, too.
        """
        self.folder = Path(folder)
        index = self.folder / INDEX
        if not index.is_file():
            raise ValueError(f"{folder} is no folder that `stgt data features` wrote: it has no {index}")
        self.key, self.videos, batch, fingerprint = _read_index(index)
        require_hash(self.folder / FINGERPRINT, fingerprint)
        self._rows = {video: row * self.views for row, video in enumerate(self.videos)}
        place = self.folder / f"tokens-{file_hash(index)[:16]}"
        self.tokens = Store(place, batches(len(self.videos) * self.views, batch))
        """A row for each view of each video. The views of one video follow each other."""
        if whole and (missing := self.tokens.missing()):
            first = f"{self.tokens.path(missing[0])}: {self.tokens.fault(missing[0])}"
            raise ValueError(
                f"{folder} is not complete, because `stgt data features` was stopped or is still writing it, or files "
                f"are damaged. Repeat that command, and it computes the rest. {first}"
            )

    @property
    def views(self) -> int:
        return self.key.views

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all tokens: (videos, views, T, 1+P, C)."""
        return (len(self.videos), self.views, *self.read(self.videos[0]).shape)

    def sha256(self) -> str:
        """One hash of the key, the videos and all tokens. It reads the checksums of the tokens, not the tokens."""
        settings = json.dumps([dataclasses.asdict(self.key), self.videos])
        return tensors_hash({"tokens": self.tokens.checksums("tokens")}, settings)

    def __contains__(self, video: str) -> bool:
        return video in self._rows

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
        try:
            return self.tokens.rows("tokens", [self._rows[video] + view])[0]
        except DamagedError as error:
            raise DamagedError(f"{error}; it holds view {view} of {video}") from None


def _read_index(path: Path) -> tuple[FeatureKey, list[str], int, str]:
    """A cache's key, its videos, the number of views in a file, and the SHA-256 of the file of the fingerprint.

    Raises ValueError for an index that contradicts itself, or that another version wrote.
    """
    index, has_checksum = read_sealed(path)
    if not has_checksum and "format" in index:
        raise DamagedError(f"{path}: its own checksum is missing: {_AGAIN}")
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{path.parent} was written by another version of stgt, in another format or with a decoder that may have "
            f"read other frames: {_AGAIN}"
        )
    parts = (("key", dict), ("videos", list), ("batch", int), ("fingerprint", str))
    key, videos, batch, fingerprint = (field(index, *part, str(path)) for part in parts)
    try:
        key = from_dict(FeatureKey, key)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not videos or not all(isinstance(video, str) for video in videos) or len(set(videos)) != len(videos):
        raise ValueError(f"{path}: 'videos' is {shown(videos)}, expected a list of texts, each once")
    if batch < 1:
        raise ValueError(f"{path}: 'batch' is {batch}, expected at least 1")
    return key, videos, batch, fingerprint
