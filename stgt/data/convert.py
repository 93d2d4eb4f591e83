"""The downloaded files of a published data set become annotations of this package."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from stgt.data.annotations import require_disjoint, save_captions, save_questions
from stgt.data.datasets import DATA_SETS
from stgt.data.datasets.dataset import Size, count
from stgt.data.entries import Clip, Question
from stgt.data.names import name_of, without_ending
from stgt.data.video_folder import VideoFolder
from stgt.ownership import owned
from stgt.terminal import say

logger = logging.getLogger(__name__)

Entries = list[Clip] | list[Question]


def convert(
    name: str, source: Path, out: Path, *, videos: Path | None = None, hold_out: int = 0, any_size: bool = False
) -> dict[str, Path]:
    """Write OUT/{train,val,test}.json, or qa_….json, from the files in `source`; return the path of each split.

    name: a key of `DATA_SETS`. videos: a folder in which each video is looked up; the annotations then hold the names
    of the files that are there, and videos without a file are left out. hold_out: the number of training videos that
    become the validation split; they are always the same ones.
    Raises ValueError, before anything is written, for files that are missing or malformed, for a video in two splits,
    and, unless any_size, for a split that has none of its published sizes.
    """
    dataset = DATA_SETS[name]
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder, expected one that {name}'s files were downloaded to")
    splits: dict[str, Entries] = dict(dataset.read(source))
    missing: dict[str, list[str]] = {}
    if videos is not None:
        splits, missing = _present(splits, VideoFolder(videos, images=dataset.images))
    published: dict[str, Size | None] = {}
    for split, entries in splits.items():
        left_out = ""
        if missing.get(split):
            left_out = f"; {len(missing[split])} have no file in {videos}, the first is {missing[split][0]}"
        sizes = dataset.sizes.get(split, ())
        published[split] = next((size for size in sizes if size.fits(entries)), None)
        if not entries or (sizes and published[split] is None and not any_size):
            raise _wrong_size(f"{name}, {split}", entries, sizes, left_out)
        if left_out:
            logger.warning("%s, %s: %d videos%s", name, split, count(entries)[0], left_out)
    if hold_out:
        splits, published["train"] = _hold_out(name, splits, hold_out), None
    kind, prefix = ("questions", "qa_") if dataset.questions else ("captions", "")
    paths = {split: out / f"{prefix}{split}.json" for split in splits}
    # Files whose names differ only in their ending are one video, as x.mov and x.mp4 in DiDeMo.
    names = {split: [without_ending(entry.video) for entry in entries] for split, entries in splits.items()}
    require_disjoint(names, str(source))
    with owned(out):
        for split, entries in splits.items():
            (save_questions if dataset.questions else save_captions)(entries, paths[split])
    for split, entries in splits.items():
        size = published.get(split)
        say("{}: {} videos, {} {}{}".format(paths[split], *count(entries), kind, f" ({size.name})" if size else ""))
    return paths


def _wrong_size(what: str, entries: Entries, sizes: Sequence[Size], left_out: str) -> ValueError:
    expected = " or ".join(map(str, sizes)) or "at least 1 video"
    hint = "; --any-size goes on with what is there" if entries else ""
    found = "{} videos and {} captions or questions".format(*count(entries))
    return ValueError(f"{what}: {found}, expected {expected}{left_out}{hint}")


def _present(splits: dict[str, Entries], folder: VideoFolder) -> tuple[dict[str, Entries], dict[str, list[str]]]:
    """The entries under the names of their files, and for each split the videos that have no file."""
    present: dict[str, Entries] = {}
    missing: dict[str, list[str]] = {}
    for split, entries in splits.items():
        files = {video: folder.find(video) for video in dict.fromkeys(entry.video for entry in entries)}
        present[split] = [entry._replace(video=files[entry.video]) for entry in entries if files[entry.video]]
        missing[split] = [video for video, file in files.items() if file is None]
    return present, missing


def _hold_out(name: str, splits: dict[str, Entries], number: int) -> dict[str, Entries]:
    """Move `number` training videos to "val": those whose names have the lowest hashes, whatever else is there."""
    if "val" in splits:
        raise ValueError(f"hold_out is {number}, but {name} has a validation split of its own, expected 0")
    videos: Sequence[str] = sorted(
        {entry.video for entry in splits["train"]}, key=lambda video: hashlib.sha256(name_of(video).encode()).digest()
    )
    if not 0 < number < len(videos):
        raise ValueError(f"hold_out is {number}, expected less than the {len(videos)} training videos")
    held = set(videos[:number])
    train = [entry for entry in splits["train"] if entry.video not in held]
    return {"train": train, "val": [entry for entry in splits["train"] if entry.video in held]} | {
        split: entries for split, entries in splits.items() if split != "train"
    }
