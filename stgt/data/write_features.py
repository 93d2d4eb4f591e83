"""Writes a feature cache: every view of every video goes through the tower once."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stgt.data.features import FORMAT, INDEX, TABLE, FeatureKey, FeatureStore
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, require_same
from stgt.data.isolated import Failure
from stgt.data.loader import read_batches
from stgt.data.on_ray import encode_on_ray
from stgt.data.outage import Streak, require_places
from stgt.data.samples import VideoDataset
from stgt.data.store import Batches
from stgt.data.transforms import describe
from stgt.data.video import DEADLINE, VideoError
from stgt.data.video_table import VideoTable, columns, distinct, write_table
from stgt.data.views import Views
from stgt.files import file_hash, write_text
from stgt.integrity import require_finite_rows, sealed
from stgt.ownership import claimed, remove_dead_lock

logger = logging.getLogger(__name__)


@torch.no_grad()
def write_features(
    folder: str | Path,
    videos: VideoDataset | Sequence[VideoDataset],
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
    bad: Container[str] = frozenset(),
    max_replacements: int = 10,
) -> FeatureStore:
    """Write the tokens that `tower` gives for every view of `videos`, unless `folder` holds them already.

    videos: one data set, or several of the same folder, which read in the same way, such as those of training and of
    validation. A video that is in several of them is read once. tower: (B, T, 3, S, S) → (B, T, 1+P, C), on `device`.
    View v of the i-th video is read with torch's generator seeded by (seed, v, i). contents: whether to record the
    SHA-256 of each video, and to compare it where an existing cache has one. ray: whether the machines of a Ray cluster
    read and compute; then `tower` is pickled, and moved to their GPUs if it is a module, and `workers` and `device` do
    not matter. accept_changed: whether an existing cache is used, with a warning, if its videos have changed. bad: the
    names of videos of manifests that are not opened, and count as videos that cannot be read. max_replacements: the
    largest number of videos of manifests in a row that may be unreadable.
    What was written before an error or a kill is kept, and a repeated call computes the rest. Several processes may
    make the same call at the same time, and then share the work. A video of a manifest that cannot be read is marked,
    so that training replaces its pairs.
    Raises ValueError if `folder` holds another cache or one of other videos, if there are several views but `videos`
    draws nothing at random, if batch_size is below 1, and if tokens are not finite; VideoError for a file of another
    annotation that cannot be read, for a store that does not answer, for a shard on this machine or a folder that is
    missing, and for too many videos of manifests in a row that cannot be read; OSError if the disk has no room.
    """
    parts = [videos] if isinstance(videos, VideoDataset) else [*videos]
    first = parts[0]
    if not any(map(len, parts)):
        raise ValueError("videos is empty, expected at least one video")
    if views < 1 or (views > 1 and not first.random):
        raise ValueError(f"views is {views}, expected 1, or more for a data set that draws frames and augmentation")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    folder = Path(folder)
    key = FeatureKey(
        tower_hash, describe(first.transform), first.frames, first.sampling, views, seed, first.decoder_version
    )
    items, cache, absent = _opened(folder, parts, key, batch_size, contents=contents, bad=bad)
    changes = cache.changed_videos(first.root, contents=contents)
    require_same(f"{folder} was made of other videos", changes, accept=accept_changed)
    store = cache.tokens
    if absent and cache.complete.is_file():
        absent = store.missing()  # another process may have ended since the first look
    if absent:
        cache.complete.unlink(missing_ok=True)
        require_places(parts)
    elif cache.complete.is_file():
        _tell_of_unread(cache)
        return cache
    encode, left = _TowerTokens(tower, batch_size, device), absent
    streak = Streak(store, len(cache.table), views, max_replacements)

    def compute(names: Iterator[str]) -> Batches:
        nonlocal left
        lengths = [len(store.items(name)) for name in left or store.missing()]
        left, room_is_known = [], False  # another call has to look which ones other processes have written
        names, asked = itertools.tee(names)
        units = map(store.items, names)
        found = _on_ray(items, units, encode, max(lengths)) if ray else _here(items, units, encode, workers)
        for rows, name in zip(found, asked, strict=False):
            unit = store.items(name)
            names_of_rows = [items.name(number) for number in unit]
            require_finite_rows(rows["tokens"], names_of_rows, "the tower's tokens")
            states = zip(unit, rows["state"][:, 0].tolist(), strict=True)
            streak.add(name, [None if items.is_bad(n) else bool(fine) for n, fine in states], names_of_rows)
            if not room_is_known:
                _require_room(folder, sum(lengths) * rows["tokens"][0].nbytes)
                room_is_known = True
            yield rows

    store.fill(compute, missing=absent, what="features")
    cache.finish(items.name)
    _tell_of_unread(cache)
    return cache


def _tell_of_unread(cache: FeatureStore) -> None:
    """Warn of the videos that training will replace."""
    count, first = cache.unread()
    if count:
        logger.warning(
            "%s: %d of the %d videos were listed as bad or could not be read, the first is %s; training replaces their "
            "pairs, and validation refuses them: list those of --data.val in --data.bad-list",
            cache.folder, count, len(cache.table), first,
        )  # fmt: skip


def _opened(
    folder: Path,
    parts: Sequence[VideoDataset],
    key: FeatureKey,
    batch_size: int,
    *,
    contents: bool,
    bad: Container[str],
) -> tuple[Views, FeatureStore, list[str]]:
    """The rows that a cache has to hold, the cache, which is begun if there is none, and the files that it lacks.

    Raises ValueError if it is one of other videos or of another key.
    """
    table, chosen = distinct(itertools.chain.from_iterable(part.videos.places() for part in parts))
    if not (folder / INDEX).is_file():
        with claimed(folder / INDEX, wait=True):
            _begin(folder, parts, table, key, batch_size, contents)
    remove_dead_lock(folder / INDEX)
    cache = FeatureStore(folder, whole=False)
    cache.require(**dataclasses.asdict(key))
    compared = frozenset(Fingerprint.load(folder / FINGERPRINT).names)
    items = Views(parts, chosen, key.views, key.seed, compared=compared, contents=contents, bad=bad)
    digests, rows = columns(table)
    if (lacking := rows[cache.table.find(digests) < 0]).size:
        name = items.name(int(lacking.min()) * key.views)
        raise ValueError(f"{folder} lacks {lacking.size} videos, the first is {name}: remove it first")
    absent = cache.tokens.missing()
    if (absent or not cache.complete.is_file()) and not np.array_equal(cache.table.contents, table):
        raise ValueError(
            f"{folder} is not complete, and was begun for other videos: give the same videos, or remove it first"
        )
    return items, cache, absent


def _begin(
    folder: Path, parts: Sequence[VideoDataset], table: np.ndarray, key: FeatureKey, batch_size: int, contents: bool
) -> None:
    """Write the files of a cache other than the tokens, unless another process has written them."""
    if (folder / INDEX).is_file():
        return
    ours = (FINGERPRINT, TABLE)
    if others := sorted(path.name for path in folder.glob("[!.]*") if path.name not in ours):
        raise ValueError(
            f"{folder} is no folder that `stgt data features` wrote: it holds {others[0]} and no {INDEX}; expected an "
            "empty folder, or a name that does not exist"
        )
    # This is taken before the videos are read, so that a change in the meantime is noticed later.
    files = itertools.chain.from_iterable(part.videos.files() for part in parts)
    fingerprint = Fingerprint.take({}, files, parts[0].root, decoder=key.decoder, contents=contents)
    fingerprint.save(folder / FINGERPRINT)
    write_table(folder / TABLE, table)
    facts = {"key": dataclasses.asdict(key), "batch": batch_size, "videos": len(VideoTable(folder / TABLE))}
    hashes = {"table": file_hash(folder / TABLE), "fingerprint": file_hash(folder / FINGERPRINT)}
    write_text(folder / INDEX, sealed({"format": FORMAT, **facts, **hashes}))


def _require_room(folder: Path, needed: int) -> None:
    """Raise OSError unless the disk has room for a number of bytes."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(f"the features take {needed:,} bytes, and the disk of {folder} has {free:,}")


class _TowerTokens:
    """The tower's tokens as they are kept. It can be sent to another process."""

    def __init__(self, tower: Callable[[Tensor], Tensor], batch_size: int, device: torch.device | str) -> None:
        self.network = tower if isinstance(tower, nn.Module) else None
        self._tower, self._batch_size, self._device = tower, batch_size, device

    @torch.no_grad()
    def __call__(self, pixels: Tensor | np.ndarray, state: Tensor | np.ndarray) -> dict[str, Tensor]:
        """Pixels, float32 (B, T, 3, S, S) → tokens, bfloat16 (B, T, 1+P, C), on the CPU, beside the state."""
        device = self._device if self.network is None else next(self.network.parameters()).device
        parts = torch.as_tensor(pixels).split(self._batch_size)
        tokens = torch.cat([self._tower(part.to(device)).to(torch.bfloat16).cpu() for part in parts])
        return {"tokens": tokens, "state": torch.as_tensor(state)}


def _here(items: Views, units: Iterator[range], encode: _TowerTokens, workers: int) -> Iterator[dict[str, Tensor]]:
    return itertools.starmap(encode, read_batches(items, units, workers=workers))


def _on_ray(items: Views, units: Iterator[range], encode: _TowerTokens, largest: int) -> Iterator[dict[str, Tensor]]:
    """The rows of units, of at most `largest` rows each. Raises VideoError for the first that cannot be read."""
    timeout = largest * (items.decoding.get("deadline") or DEADLINE)
    units, asked = itertools.tee(units)
    for rows, unit in zip(encode_on_ray(units, items.read, encode, timeout=timeout), asked, strict=False):
        if isinstance(rows, Failure):
            names = list(dict.fromkeys(map(items.name, unit)))
            # The name of a member stands behind its shard and offset there, so that its last part is looked for.
            known = any(name.rpartition("/")[2] in rows.cause for name in names)
            raise VideoError(rows.cause if known else f"one of {', '.join(names)}: {rows.cause}")
        yield rows
