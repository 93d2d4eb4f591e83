"""Writes a feature cache: every view of every video goes through the tower once."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from stgt.data.features import FORMAT, INDEX, FeatureKey, FeatureStore
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, require_same
from stgt.data.isolated import Failure
from stgt.data.loader import read_batches
from stgt.data.on_ray import encode_on_ray
from stgt.data.samples import VideoDataset
from stgt.data.store import Batches
from stgt.data.transforms import describe
from stgt.data.video import DEADLINE, VideoError
from stgt.files import file_hash, write_text
from stgt.integrity import require_finite_rows, sealed
from stgt.ownership import claimed, remove_dead_lock
from stgt.randomness import seeded


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
    ray: bool = False,
    device: torch.device | str = "cpu",
    contents: bool = False,
    accept_changed: bool = False,
) -> FeatureStore:
    """Write the tokens that `tower` gives for every view of `videos`, unless `folder` holds them already.

    tower: (B, T, 3, S, S) → (B, T, 1+P, C), on `device`. View v of video i is read with torch's generator seeded by
    (seed, v, i). contents: whether to record the SHA-256 of each video, and to compare it where an existing cache has
    one. ray: whether the machines of a Ray cluster read and compute; then `tower` is pickled, and moved to their GPUs
    if it is a module, and `workers` and `device` do not matter. accept_changed: whether an existing cache is used, with
    a warning, if its videos have changed.
    What was written before an error or a kill is kept, and a repeated call computes the rest. Several processes may
    make the same call at the same time, and then share the work.
    Raises ValueError if `folder` holds another cache or one of other videos, if there are several views but `videos`
    draws nothing at random, if batch_size is below 1, and if tokens are not finite; VideoError for a file that cannot
    be read; OSError if the disk has no room.
    """
    if views < 1 or (views > 1 and not videos.random):
        raise ValueError(f"views is {views}, expected 1, or more for a data set that draws frames and augmentation")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    folder = Path(folder)
    key = FeatureKey(
        tower_hash, describe(videos.transform), videos.frames, videos.sampling, views, seed, videos.decoder_version
    )
    if not (folder / INDEX).is_file():
        with claimed(folder / INDEX, wait=True):
            _begin(folder, videos, key, batch_size, contents)
    remove_dead_lock(folder / INDEX)
    cache = FeatureStore(folder, whole=False)
    cache.require(**dataclasses.asdict(key))
    if missing := [video for video in videos.videos if video not in cache]:
        raise ValueError(f"{folder} lacks {len(missing)} videos, the first is {missing[0]}: remove it first")
    changes = cache.changed_videos(videos.root, contents=contents)
    require_same(f"{folder} was made of other videos", changes, accept=accept_changed)
    store, items = cache.tokens, _Views(videos, views, seed)
    if store.missing() and cache.videos != list(videos.videos):
        raise ValueError(
            f"{folder} is not complete, and was begun for other videos: give the same videos, or remove it first"
        )

    encode = _TowerTokens(tower, batch_size, device)

    def compute(names: Iterator[str]) -> Batches:
        missing = [len(store.items(name)) for name in store.missing()]  # other processes may have written some
        room_is_known = False
        units, asked = itertools.tee(map(store.items, names))
        found = _on_ray(items, units, encode, max(missing)) if ray else _here(items, units, encode, workers)
        for tokens, unit in zip(found, asked, strict=False):
            require_finite_rows(tokens, [items.name(number) for number in unit], "the tower's tokens")
            if not room_is_known:
                _require_room(folder, sum(missing) * tokens[0].nbytes)
                room_is_known = True
            yield {"tokens": tokens}

    store.fill(compute, what="features")
    return cache


def _begin(folder: Path, videos: VideoDataset, key: FeatureKey, batch_size: int, contents: bool) -> None:
    """Write the files of a cache other than the tokens, unless another process has written them."""
    if (folder / INDEX).is_file():
        return
    if others := sorted(path.name for path in folder.glob("[!.]*") if path.name != FINGERPRINT):
        raise ValueError(
            f"{folder} is no folder that `stgt data features` wrote: it holds {others[0]} and no {INDEX}; expected an "
            "empty folder, or a name that does not exist"
        )
    # This is taken before the videos are read, so that a change in the meantime is noticed later.
    fingerprint = Fingerprint.take({}, videos.videos, videos.root, decoder=key.decoder, contents=contents)
    fingerprint.save(folder / FINGERPRINT)
    facts = {"key": dataclasses.asdict(key), "batch": batch_size, "fingerprint": file_hash(folder / FINGERPRINT)}
    write_text(folder / INDEX, sealed({"format": FORMAT, **facts, "videos": list(videos.videos)}))


def _require_room(folder: Path, needed: int) -> None:
    """Raise OSError unless the disk has room for a number of bytes."""
    if needed > (free := shutil.disk_usage(folder).free):
        needed, free = f"{needed / 2**30:.1f} GiB", f"{free / 2**30:.1f} GiB"
        raise OSError(f"the features take {needed}, and the disk of {folder.parent} has {free}")


class _TowerTokens:
    """The tower's tokens as they are kept. It can be sent to another process."""

    def __init__(self, tower: Callable[[Tensor], Tensor], batch_size: int, device: torch.device | str) -> None:
        self.network = tower if isinstance(tower, nn.Module) else None
        self._tower, self._batch_size, self._device = tower, batch_size, device

    @torch.no_grad()
    def __call__(self, pixels: Tensor | np.ndarray) -> Tensor:
        """float32 (B, T, 3, S, S) → bfloat16 (B, T, 1+P, C), on the CPU."""
        device = self._device if self.network is None else next(self.network.parameters()).device
        parts = torch.as_tensor(pixels).split(self._batch_size)
        return torch.cat([self._tower(part.to(device)).to(torch.bfloat16).cpu() for part in parts])


def _here(items: _Views, units: Iterator[range], encode: _TowerTokens, workers: int) -> Iterator[Tensor]:
    return map(encode, read_batches(items, units, workers=workers))


def _on_ray(items: _Views, units: Iterator[range], encode: _TowerTokens, largest: int) -> Iterator[Tensor]:
    """The tokens of units of at most `largest` rows. Raises VideoError for the first that cannot be read."""
    timeout = largest * (items.videos.decoding.get("deadline") or DEADLINE)
    units, asked = itertools.tee(units)
    for tokens, unit in zip(encode_on_ray(units, items.read, encode, timeout=timeout), asked, strict=False):
        if isinstance(tokens, Failure):
            names = list(dict.fromkeys(map(items.name, unit)))
            known = any(name in tokens.cause for name in names)
            raise VideoError(tokens.cause if known else f"one of {', '.join(names)}: {tokens.cause}")
        yield tokens


class _Views(Dataset):
    """The pixels of each row of a cache, float32 (T, 3, S, S)."""

    def __init__(self, videos: VideoDataset, views: int, seed: int) -> None:
        self.videos, self.views, self.seed = videos, views, seed

    def __len__(self) -> int:
        return len(self.videos.videos) * self.views

    def __getitem__(self, number: int) -> Tensor:
        index, view = divmod(number, self.views)
        with seeded(self.seed, view, index):
            return self.videos.clip(index)["video"]

    def name(self, number: int) -> str:
        """The name of a row's video."""
        return self.videos.videos[number // self.views]

    def read(self, numbers: range) -> tuple[np.ndarray]:
        """The pixels of some rows, float32 (B, T, 3, S, S), computed by one thread."""
        torch.set_num_threads(1)
        return (torch.stack([self[number] for number in numbers]).numpy(),)
