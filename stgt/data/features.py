"""A feature cache: a frozen tower's tokens, computed once, so that training runs without the tower.

A cache is a folder. features.json holds the key, that is, everything else that decides the tokens, the number of
videos, and the checksums of two files: videos.npy, a `VideoTable` with the row of each video, and data.fingerprint, the
fingerprint of the videos, or of the shards of a manifest. The folder tokens-… is a `Store` with a row for each view of
each video: its tokens, bfloat16 (T, 1+P, C), and its state. The folder's name is a digest of features.json, so tokens
of other videos or of another key are never read. When all rows are there, it also holds complete.json, so that nobody
has to look for each of them. `stgt.data.write_features` writes a cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stgt.data.errors import VideoError
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences, require_same
from stgt.data.store import Store, batches
from stgt.data.video_table import VideoTable
from stgt.fields import COUNT, from_dict, require_counts, require_types
from stgt.files import file_hash, write_text
from stgt.integrity import DamagedError, read_sealed, require_hash, sealed
from stgt.structure import field

INDEX, TABLE, COMPLETE = "features.json", "videos.npy", "complete.json"
FORMAT = 4
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


class Index(NamedTuple):
    """What features.json holds."""

    key: FeatureKey
    videos: int
    batch: int
    """Number of views in a file of tokens"""
    table: str
    """SHA-256 of videos.npy"""
    fingerprint: str
    """SHA-256 of data.fingerprint"""


class FeatureStore:
    """Reads a feature cache. `place in store` tells whether the cache has tokens of the video at a place.

    The place of a video is the name of its file or, in a shard, `stgt.data.manifest.rows.Row.place`.
    """

    def __init__(self, folder: str | Path, *, whole: bool = True, accept_changed: bool = False) -> None:
        """Open a cache. Raises ValueError if `folder` holds none, or one of an earlier version, or a damaged one.

        whole: whether a cache that is not complete is refused, too. Its files of tokens are not looked at.
        accept_changed: whether `read` only warns of a changed video.
        """
        self.folder, self.accept_changed = Path(folder), accept_changed
        index = self.folder / INDEX
        if not index.is_file():
            raise ValueError(f"{folder} is no folder that `stgt data features` wrote: it has no {index}")
        self.key, videos, batch, table, fingerprint = _read_index(index)
        require_hash(self.folder / FINGERPRINT, fingerprint)
        require_hash(self.folder / TABLE, table)
        self.table = VideoTable(self.folder / TABLE)
        if len(self.table) != videos:
            raise DamagedError(f"{index}: 'videos' is {videos}, expected the {len(self.table)} of {TABLE}: {_AGAIN}")
        self._settings = json.dumps([dataclasses.asdict(self.key), table])
        place = self.folder / f"tokens-{file_hash(index)[:16]}"
        self.tokens = Store(place, batches(videos * self.views, batch))
        """A row for each view of each video. The views of one video follow each other."""
        self.complete = place / COMPLETE
        """The file that says that all tokens are there, and holds one checksum of them"""
        if whole and self._recorded() is None:
            faults = ((name, fault) for name in self.tokens.names if (fault := self.tokens.fault(name)))
            name, fault = next(faults, ("", ""))
            raise ValueError(
                f"{folder} is not complete, because `stgt data features` was stopped or is still writing it, or files "
                f"are damaged. Repeat that command, and it computes the rest. "
                f"{self.tokens.path(name) if name else self.complete}: {fault or 'there is no such file'}"
            )

    @property
    def views(self) -> int:
        return self.key.views

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all tokens: (videos, views, T, 1+P, C)."""
        return (len(self.table), self.views, *self.tokens.rows("tokens", [0]).shape[1:])

    def sha256(self) -> str:
        """One hash of the key, the videos and all tokens. If the cache is complete, complete.json holds it."""
        return self._recorded() or self._computed()

    def _recorded(self) -> str | None:
        if not self.complete.is_file():
            return None
        values, has_checksum = read_sealed(self.complete)
        if not has_checksum:
            raise DamagedError(f"{self.complete}: its own checksum is missing; remove it, and repeat the command")
        return field(values, "tokens", str, str(self.complete))

    def _computed(self) -> str:
        digest = hashlib.sha256(self._settings.encode())
        for part in self.tokens.checksums("tokens"):
            digest.update(part.numpy().data)
        return digest.hexdigest()

    def finish(self) -> None:
        """Write down that all tokens are there. It reads their checksums."""
        write_text(self.complete, sealed({"tokens": self._computed()}))

    def __contains__(self, place: str) -> bool:
        return self.table.row(place) >= 0

    def first_absent(self, places: Iterable[str]) -> int | None:
        """The number of the first video without tokens, or None. It takes no memory for all places."""
        return self.table.first_absent(places)

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

        The shards of a manifest are compared here, and its other files when they are read.
        contents: whether to compare the contents of the files as well, if the cache has their hashes.
        """
        then = Fingerprint.load(self.folder / FINGERPRINT)
        now = Fingerprint.take({}, then.names, root, decoder=then.decoder, contents=contents).completed(then, root)
        return data_differences(now, then, absent_is_same=True)

    def read(self, place: str, view: int = 0, *, name: str | None = None, root: str | Path | None = None) -> Tensor:
        """Tokens of one view of a video: bfloat16 (T, 1+P, C).

        name: the video's name in errors. root: the folder of the videos, if a file that a manifest names is to be
        compared with the one that the tokens were computed from.
        Raises DamagedError if the tokens differ from their checksum, VideoError if the video could not be read when
        they were computed, and ValueError if the file has changed or the cache lacks the video.
        """
        name = name or place
        row = self.table.row(place)
        if row < 0:
            raise ValueError(f"{name}: {self.folder} lacks its tokens")
        number = [row * self.views + view]
        try:
            state, tokens = (self.tokens.rows(key, number)[0] for key in ("state", "tokens"))
        except DamagedError as error:
            raise DamagedError(f"{error}; it holds view {view} of {name}") from None
        readable, recorded, *file = state.tolist()
        if not readable:
            file = self.tokens.path(self.tokens.names.holding(*number))
            raise VideoError(f"{name}: it could not be read when its tokens were computed for {file}")
        if recorded and root is not None:
            self._require_unchanged(place, np.array(file), root)
        return tokens

    def _require_unchanged(self, name: str, file: np.ndarray, root: str | Path) -> None:
        decoder = self.key.decoder
        then = Fingerprint.of_row(name, file, decoder=decoder)
        now = Fingerprint.take({}, [name], root, decoder=decoder).completed(then, root)
        changes = data_differences(now, then, absent_is_same=True)
        require_same(f"{self.folder} was made of other data", changes, accept=self.accept_changed)


def _read_index(path: Path) -> Index:
    """Raises ValueError for an index that contradicts itself, or that another version wrote."""
    index, has_checksum = read_sealed(path)
    if not has_checksum and "format" in index:
        raise DamagedError(f"{path}: its own checksum is missing: {_AGAIN}")
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{path.parent} was written by another version of stgt, in another format or with a decoder that may have "
            f"read other frames: {_AGAIN}"
        )
    parts = (("key", dict), ("videos", int), ("batch", int), ("table", str), ("fingerprint", str))
    key, *facts = (field(index, *part, str(path)) for part in parts)
    try:
        found = Index(from_dict(FeatureKey, key), *facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name in ("videos", "batch"):
        if not 1 <= getattr(found, name) <= COUNT:
            raise ValueError(f"{path}: {name!r} is {getattr(found, name)}, expected at least 1 and at most {COUNT}")
    return found
