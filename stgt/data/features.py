"""A frozen tower's tokens, computed once: training then runs without the tower in the loop.

A cache is a folder of tokens.bin, bfloat16 (videos, views, T, 1+P, C), which is memory-mapped; checksums.bin, the
SHA-256 of each view of each video; data.fingerprint, the fingerprint of the videos; and features.json, which names the
videos, the key, which is everything else that decides the tokens, and the checksums of the others. It is written under
another name and renamed when it is whole, so what has the name is never half written. A view is compared with its
checksum when it is read, everything else when the cache is opened.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from stgt.config import VisionConfig
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences, require_same
from stgt.data.loader import parts, read_batches
from stgt.data.transforms import describe
from stgt.fields import from_dict, require_types
from stgt.files import atomic_folder, file_hash, tensors_hash
from stgt.integrity import (
    DamagedError,
    damaged_row,
    read_sealed,
    require_finite_rows,
    require_hash,
    row_digests,
    sealed,
)
from stgt.ownership import owned, remove_dead_lock
from stgt.randomness import seeded
from stgt.structure import field, shown

if TYPE_CHECKING:
    from stgt.data.samples import VideoDataset

TOKENS, CHECKSUMS, INDEX = "tokens.bin", "checksums.bin", "features.json"
FORMAT = 2
"""Of a cache, in features.json; those of version 0.1.0 have none"""
_AGAIN = "remove the folder, and `stgt data features` writes it again"


@dataclasses.dataclass(frozen=True)
class FeatureKey:
    """What tokens depend on besides the files; two caches with equal keys hold the same."""

    tower: str
    """`tower_hash` of its weights and settings"""
    transform: str
    """`transforms.describe` of it"""
    frames: int
    sampling: str
    views: int
    """How often each video was read: augmented, with other draws each time, unless it is 1"""
    decoder: str
    """`stgt.data.video.decoder_version` of what read the videos"""

    def __post_init__(self) -> None:
        require_types(self)


def tower_hash(weights: dict[str, Tensor], config: VisionConfig) -> str:
    """SHA-256 of a tower's tensors, names, shapes and dtypes included, and of the settings that change its output."""
    settings = dataclasses.asdict(config)
    for name in ("pretrained", "open_blocks"):  # where the weights came from, and who may change them
        del settings[name]
    return tensors_hash(weights, json.dumps(settings, sort_keys=True))


class FeatureStore:
    """Reader of a feature cache. `video in store` tells whether it has a video's tokens."""

    def __init__(self, folder: str | Path) -> None:
        """Open a cache; raises ValueError if `folder` holds none, or one that is not whole or of an earlier version."""
        self.folder = Path(folder)
        for name in (INDEX, TOKENS):
            if not (path := self.folder / name).is_file():
                raise ValueError(f"{folder} is no folder that `stgt data features` wrote: no {path}")
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
        """How the videos below `root` differ from those that the cache was made of; those that are not there do not.

        contents: whether to compare what is in the files as well, if it was recorded.
        """
        then = Fingerprint.load(self.folder / FINGERPRINT)
        now = Fingerprint.take({}, then.names, root, decoder=then.decoder, contents=contents).completed(then, root)
        return data_differences(now, then, absent_is_same=True)

    def read(self, video: str, view: int = 0) -> Tensor:
        """Tokens of one view of a video: bfloat16 (T, 1+P, C). Raises DamagedError if they are not as written."""
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

    Raises ValueError for an index that fits no tokens, or that another version wrote.
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


@torch.no_grad()
def write_features(
    folder: str | Path,
    videos: VideoDataset,
    tower: Callable[[Tensor], Tensor],
    *,
    tower_hash: str,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    device: torch.device | str = "cpu",
    contents: bool = False,
    accept_changed: bool = False,
) -> FeatureStore:
    """Write the tokens that `tower` gives for every view of `videos`, unless `folder` holds them already.

    tower: (B, T, 3, S, S) → (B, T, 1+P, C), on `device`. View v of video i is read with torch's generator seeded by
    (seed, v, i). contents: whether to record the SHA-256 of each video, and to compare it with a cache that has it.
    accept_changed: whether a cache of videos that have changed since is taken as it is, with a warning.
    Raises ValueError if `folder` holds another cache, or one of other videos, if `views` needs draws that `videos` does
    not make, and if tokens are not finite, VideoError at a file that cannot be read, OSError if the disk has no room;
    none of them leaves anything behind.
    """
    if views < 1 or (views > 1 and not videos.random):
        raise ValueError(f"views is {views}, expected 1, or more of a data set that draws frames and augmentation")
    folder = Path(folder)
    key = FeatureKey(
        tower_hash, describe(videos.transform), videos.frames, videos.sampling, views, videos.decoder_version
    )
    if folder.exists():
        remove_dead_lock(folder)
        store = FeatureStore(folder)
        store.require(**dataclasses.asdict(key))
        if missing := [video for video in videos.videos if video not in store]:
            raise ValueError(f"{folder} lacks {len(missing)} videos, the first is {missing[0]}: remove it first")
        changes = store.changed_videos(videos.root, contents=contents)
        require_same(f"{folder} was made of other videos", changes, accept=accept_changed)
        return store
    with owned(folder, beside=True), atomic_folder(folder) as unfinished:
        # Before they are read, so that a video that changes meanwhile is noticed.
        fingerprint = Fingerprint.take({}, videos.videos, videos.root, decoder=key.decoder, contents=contents)
        fingerprint.save(unfinished / FINGERPRINT)
        items = _Views(videos, views, seed)
        numbers = parts(len(items), batch_size)
        read = tqdm(read_batches(items, numbers, workers=workers), "features", len(numbers), unit="batch")
        batches = (tower(batch.to(device)) for batch in read)
        shape = _write_tokens(unfinished, batches, videos.videos, views)
        facts = {"key": dataclasses.asdict(key), "seed": seed, "shape": shape, "videos": videos.videos}
        checksums = file_hash(unfinished / CHECKSUMS)
        (unfinished / INDEX).write_text(sealed({"format": FORMAT, "checksums": checksums, **facts}), "utf-8")
    return FeatureStore(folder)


def _write_tokens(folder: Path, batches: Iterator[Tensor], videos: Sequence[str], views: int) -> tuple[int, ...]:
    """Write batches and their checksums: not through a memory map, where a full disk is a bus error."""
    shape, written = None, 0
    with (folder / TOKENS).open("wb") as file, (folder / CHECKSUMS).open("wb") as checksums:
        for tokens in batches:
            tokens = tokens.to(torch.bfloat16).cpu().contiguous()
            read = [videos[number // views] for number in range(written, written + len(tokens))]
            require_finite_rows(tokens, read, "the tower's tokens")
            if shape is None:
                shape = (len(videos), views, *tokens.shape[1:])
                needed, free = 2 * math.prod(shape), shutil.disk_usage(folder).free
                if needed > free:
                    needed, free = f"{needed / 2**30:.1f} GiB", f"{free / 2**30:.1f} GiB"
                    raise OSError(f"the features take {needed}, and the disk of {folder.parent} has {free}")
            file.write(tokens.view(torch.int16).numpy().data)
            checksums.write(row_digests(tokens).numpy().data)
            written += len(tokens)
    return shape


class _Views(Dataset):
    """Every view of every video, views of one video next to each other."""

    def __init__(self, videos: VideoDataset, views: int, seed: int) -> None:
        self.videos, self.views, self.seed = videos, views, seed

    def __len__(self) -> int:
        return len(self.videos.videos) * self.views

    def __getitem__(self, number: int) -> Tensor:
        index, view = divmod(number, self.views)
        with seeded(self.seed, view, index):
            return self.videos.clip(index)["video"]
