"""Writes a feature cache: every view of every video goes through the tower once."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from stgt.data.features import CHECKSUMS, FORMAT, INDEX, TOKENS, FeatureKey, FeatureStore
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, require_same
from stgt.data.loader import parts, read_batches
from stgt.data.samples import VideoDataset
from stgt.data.transforms import describe
from stgt.files import atomic_folder, file_hash
from stgt.integrity import require_finite_rows, row_digests, sealed
from stgt.ownership import owned, remove_dead_lock
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
    device: torch.device | str = "cpu",
    contents: bool = False,
    accept_changed: bool = False,
) -> FeatureStore:
    """Write the tokens that `tower` gives for every view of `videos`, unless `folder` holds them already.

    tower: (B, T, 3, S, S) → (B, T, 1+P, C), on `device`. View v of video i is read with torch's generator seeded by
    (seed, v, i). contents: whether to record the SHA-256 of each video, and to compare it where an existing cache has
    one. accept_changed: whether an existing cache is used, with a warning, if its videos have changed.
    Raises ValueError if `folder` holds another cache or one of other videos, if there are several views but `videos`
    draws nothing at random, and if tokens are not finite; VideoError for a file that cannot be read; OSError if the
    disk has no room. After an error nothing is left behind.
    """
    if views < 1 or (views > 1 and not videos.random):
        raise ValueError(f"views is {views}, expected 1, or more for a data set that draws frames and augmentation")
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
        # This is taken before the videos are read, so that a change in the meantime is noticed later.
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
    """Write batches and their checksums; return the shape of all tokens.

    The files are not memory-mapped, because a full disk would then end the process with a bus error.
    """
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
    """Pixels of every view of every video. The views of one video follow each other."""

    def __init__(self, videos: VideoDataset, views: int, seed: int) -> None:
        self.videos, self.views, self.seed = videos, views, seed

    def __len__(self) -> int:
        return len(self.videos.videos) * self.views

    def __getitem__(self, number: int) -> Tensor:
        index, view = divmod(number, self.views)
        with seeded(self.seed, view, index):
            return self.videos.clip(index)["video"]
