"""A feature cache: a frozen tower's tokens, computed once, so that training runs without the tower.

A cache is a folder. features.json holds the key, that is, everything besides the videos that decides the tokens, the
number of videos, and the checksums of two files: videos.npy, a `VideoTable` with the row of each video, and
data.fingerprint, the fingerprint of the videos, or of the shards of a manifest. The folder tokens-… is a `Store` with a
row for each view of each video: its tokens, bfloat16 (T, 1+P, C), and its state. The folder's name is a digest of
features.json, so tokens of other videos or of another key are never read. When all rows are there, it also holds
complete.json, so that a reader need not look for every file. `stgt.data.write_features` writes a cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stgt.data.batch_names import NumberedBatches
from stgt.data.errors import VideoError
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences, require_same
from stgt.data.store import Store
from stgt.data.video_table import VideoTable, digests_of
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
    """The contents of features.json."""

    key: FeatureKey
    videos: int
    batch: int
    """Number of views in a file of tokens"""
    table: str
    """SHA-256 of videos.npy"""
    fingerprint: str
    """SHA-256 of data.fingerprint"""


class Summary(NamedTuple):
    """The contents of complete.json."""

    tokens: str
    """The hash of the key, the videos and all tokens"""
    unread: int
    """Number of videos with a view that was not read"""
    first_unread: str
    """The name of the first of them, or nothing"""


class FeatureStore:
    """Reads a feature cache.

    The place of a video is the name of its file or, in a shard, `stgt.data.manifest.rows.Row.place`.
    """

    def __init__(
        self, folder: str | Path, *, whole: bool = True, contents: bool = False, accept_changed: bool = False
    ) -> None:
        """Open a cache. Raises ValueError if `folder` holds none, or one of an earlier version, or a damaged one.

        whole: whether a cache that is not complete is refused, too. The files of a complete one are not looked at.
        contents: whether `read` compares the contents of files of manifests, where the cache has their hashes.
        accept_changed: whether `read` only warns of the first changed video, and then compares no other.
        """
        self.folder, self.contents, self.accept_changed = Path(folder), contents, accept_changed
        self._equal: set[tuple[int, int, int]] = set()  # rows whose contents were equal, with their size and time
        self._warned = False
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
        self.tokens = Store(place, NumberedBatches(videos * self.views, batch))
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
        recorded = self._recorded()
        return self._computed()[0] if recorded is None else recorded.tokens

    def _recorded(self) -> Summary | None:
        try:
            values, has_checksum = read_sealed(self.complete)
        except FileNotFoundError:
            return None
        if not has_checksum:
            raise DamagedError(f"{self.complete}: its own checksum is missing; remove it, and repeat the command")
        parts = (("tokens", str), ("unread", int), ("first_unread", str))
        return Summary(*(field(values, *part, str(self.complete)) for part in parts))

    def _computed(self) -> tuple[str, list[int]]:
        """The hash, and the numbers of the videos with a view that was not read."""
        digest, unread, start = hashlib.sha256(self._settings.encode()), [], 0
        for checksums, states in self.tokens.summaries("tokens", "state"):
            digest.update(checksums.numpy().data)
            rows = {(start + row) // self.views for row in np.flatnonzero(states[:, 0].numpy() == 0).tolist()}
            unread += sorted(rows - {*unread[-1:]})
            start += len(states)
        return digest.hexdigest(), unread

    def finish(self, name: Callable[[int], str]) -> None:
        """Write complete.json, from the checksums and states of all tokens. name: gives the name of a row's video."""
        tokens, unread = self._computed()
        summary = Summary(tokens, len(unread), name(unread[0] * self.views) if unread else "")
        write_text(self.complete, sealed(summary._asdict()))

    def unread(self) -> tuple[int, str]:
        """How many videos of a complete cache have a view that was not read, and the name of the first one."""
        return self._recorded()[1:]

    def unread_among(self, places: Iterable[str]) -> list[int]:
        """The numbers, ascending, of the places whose first view was not read. The cache has to hold them all."""
        rows = self.table.find(digests_of(places)) * self.views
        order = np.argsort(rows, kind="stable")  # so that each file is opened once
        states = self.tokens.rows("state", rows[order].tolist())
        return sorted(order[(states[:, 0] == 0).numpy()].tolist())

    def lacks(self, name: str) -> str:
        """The message for a video without tokens."""
        return (
            f"{name} has no tokens in {self.folder}: write them with `stgt data features`, for these annotations and "
            "into a new folder"
        )

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
            raise ValueError(self.lacks(name))
        number = row * self.views + view
        try:
            state, tokens = self.tokens.row(["state", "tokens"], number)
        except DamagedError as error:
            raise DamagedError(f"{error}; it holds view {view} of {name}") from None
        readable, recorded, *file = state.tolist()
        if not readable:
            file = self.tokens.path(self.tokens.names.holding(number))
            raise VideoError(f"{name}: it was listed as bad, or could not be read, when {file} was computed")
        if recorded and root is not None and not self._warned:
            self._require_unchanged(row, Fingerprint.of_row(place, np.array(file), decoder=self.key.decoder), root)
        return tokens

    def _require_unchanged(self, row: int, then: Fingerprint, root: str | Path) -> None:
        """Compare a file with what it was. Its contents are read only if they decide, and once for each state of it."""
        now = Fingerprint.take({}, then.names, root, decoder=then.decoder)
        state = (row, int(now.sizes[0]), int(now.times[0]))
        if state in self._equal:
            return
        changes = data_differences(now, then, absent_is_same=True)
        if then.hashes.any() and state[1] == then.sizes[0] and (changes or self.contents):
            now = Fingerprint.take({}, then.names, root, decoder=then.decoder, contents=True)
            changes = data_differences(now, then, absent_is_same=True)
            if not changes:
                self._equal.add(state)
        what = " (other videos may have changed, too)" if self.accept_changed else ""
        require_same(f"{self.folder} was made of other data{what}", changes, accept=self.accept_changed)
        self._warned = bool(changes)


def _read_index(path: Path) -> Index:
    """Read features.json. Raises ValueError if it contradicts itself, or if another version wrote it."""
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
