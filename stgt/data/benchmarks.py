"""Named data sets: their splits, how large each has to be, and their conversion to our annotations."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stgt.data import pretraining, readers
from stgt.data.annotations import Clip, Question, load_captions, require_disjoint, save_captions, save_questions
from stgt.data.files import VideoFolder, name_of
from stgt.ownership import owned
from stgt.terminal import say

logger = logging.getLogger(__name__)

Entries = list[Clip] | list[Question]


class Size(NamedTuple):
    """One published size of a split."""

    name: str
    """Whose size it is"""
    videos: int | None
    """None is not checked"""
    texts: int | None = None
    """Captions or questions; None is not checked"""

    def __str__(self) -> str:
        counts = ((self.videos, "videos"), (self.texts, "captions or questions"))
        return f"{' and '.join(f'{count} {what}' for count, what in counts if count is not None)} ({self.name})"


class Benchmark(NamedTuple):
    read: Callable[[Path], dict[str, Entries]]
    sizes: dict[str, tuple[Size, ...]] = {}
    """Every published size of each split; empty for the sets to pre-train on, of which everybody has another part"""
    prefix: str = ""
    """Of the annotations' names"""
    images: bool = False
    """Whether the files are images; those beside videos, such as thumbnails, are not looked at"""


_JSFUSION = Size("the 1k-A test of JSFusion", 1000, 1000)
_DIDEMO_NAMES = "the authors' release, counted by file names"

BENCHMARKS = {
    "msrvtt-1ka": Benchmark(
        readers.read_msrvtt_1ka, {"train": (Size("all but the 1k-A test", 9000, 180_000),), "test": (_JSFUSION,)}
    ),
    "msrvtt-7k": Benchmark(
        readers.read_msrvtt_7k,
        {"train": (Size("the official training and validation splits", 7010, 140_200),), "test": (_JSFUSION,)},
    ),
    "msrvtt-full": Benchmark(
        readers.read_msrvtt_full,
        {
            "train": (Size("the official split", 6513, 130_260),),
            "val": (Size("the official split", 497, 9940),),
            "test": (Size("the official split", 2990, 59_800),),
        },
    ),
    "msvd": Benchmark(
        readers.read_msvd,
        {
            "train": (Size("the usual split", 1200),),
            "val": (Size("the usual split", 100),),
            "test": (Size("the usual split", 670),),
        },
    ),
    "didemo": Benchmark(
        readers.read_didemo,
        {
            "train": (
                Size("the authors' release", 8395),
                Size("later lists, which miss one video", 8394),
                Size("CLIP4Clip's list", 8392),
                Size(_DIDEMO_NAMES, 8511),
            ),
            "val": (Size("the authors' release and CLIP4Clip's list", 1065), Size(_DIDEMO_NAMES, 1094)),
            "test": (
                Size("the authors' release and CLIP4Clip's list", 1004),
                Size("later lists, which miss one video", 1003),
                Size(_DIDEMO_NAMES, 1037),
            ),
        },
    ),
    "lsmdc": Benchmark(
        readers.read_lsmdc,
        {
            "train": (Size("LSMDC 2016", None, 101_079),),
            "val": (Size("LSMDC 2016", None, 7408),),
            "test": (
                Size("the 1000 clips of the 2016 challenge", 1000, 1000),
                Size("the public test set of LSMDC 2016", None, 10_053),
            ),
        },
    ),
    "msrvtt-qa": Benchmark(
        readers.read_msrvtt_qa,
        {
            "train": (Size("the authors' release", 6513, 158_581),),
            "val": (Size("the authors' release", 497, 12_278),),
            "test": (Size("the authors' release", 2990, 72_821),),
        },
        "qa_",
    ),
    "msvd-qa": Benchmark(
        readers.read_msvd_qa,
        {
            "train": (Size("the authors' release", 1200, 30_933),),
            "val": (Size("the authors' release", 250, 6415),),
            "test": (Size("the authors' release", 520, 13_157),),
        },
        "qa_",
    ),
    "webvid": Benchmark(pretraining.read_webvid),
    "cc3m": Benchmark(pretraining.read_cc3m, images=True),
    "vidal": Benchmark(pretraining.read_vidal),
}


def convert(
    name: str, source: Path, out: Path, *, videos: Path | None = None, hold_out: int = 0, any_size: bool = False
) -> dict[str, Path]:
    """Write OUT/{train,val,test}.json, or qa_….json, of the files in `source`; returns the path of each split.

    videos: folder that the videos are looked up in, so that names are those of the files that are there; what has no
    file is left out. hold_out: training videos that become the validation split; the same ones, always.
    Raises ValueError, before anything is written, for files that are missing or malformed, videos in two splits, and,
    unless any_size, for a split that has none of its published sizes.
    """
    benchmark = BENCHMARKS[name]
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder, expected one that {name}'s files were downloaded to")
    splits = benchmark.read(source)
    missing: dict[str, list[str]] = {}
    if videos is not None:
        splits, missing = _present(splits, VideoFolder(videos, images=benchmark.images))
    published: dict[str, Size | None] = {}
    for split, entries in splits.items():
        left_out = ""
        if missing.get(split):
            left_out = f"; {len(missing[split])} have no file in {videos}, the first is {missing[split][0]}"
        sizes = benchmark.sizes.get(split, ())
        published[split] = next((size for size in sizes if _fits(entries, size)), None)
        if not entries or (sizes and published[split] is None and not any_size):
            raise _wrong_size(f"{name}, {split}", entries, sizes, left_out)
        if left_out:
            logger.warning("%s, %s: %d videos%s", name, split, _sizes(entries)[0], left_out)
    if hold_out:
        splits, published["train"] = _hold_out(name, splits, hold_out), None
    paths = {split: out / f"{benchmark.prefix}{split}.json" for split in splits}
    require_disjoint({split: [entry.video for entry in entries] for split, entries in splits.items()}, str(source))
    with owned(out):
        for split, entries in splits.items():
            (save_questions if benchmark.prefix else save_captions)(entries, paths[split])
    for split, entries in splits.items():
        size = published.get(split)
        say(
            "{}: {} videos, {} {}{}".format(
                paths[split],
                *_sizes(entries),
                "questions" if benchmark.prefix else "captions",
                f" ({size.name})" if size else "",
            )
        )
    return paths


def merge(annotations: Sequence[Path], out: Path, root: Path) -> None:
    """Write the clips of several caption annotations as one, whose names are relative to `root`.

    The videos of each are in the folder `videos` beside it; that may be a link. Raises ValueError, before anything is
    written, for annotations that are malformed, whose videos are not below `root`, or that are given twice.
    """
    if not 1 < len(annotations) == len(set(map(os.path.abspath, annotations))):
        raise ValueError(f"annotations are {', '.join(map(str, annotations)) or 'none'}, expected several, each once")
    clips: list[Clip] = []
    for annotation in annotations:
        folder = Path(os.path.relpath(annotation.parent / "videos", root))
        if ".." in folder.parts:
            raise ValueError(f"{annotation}: its folder videos is not below {root}, expected it there")
        clips += [Clip((folder / clip.video).as_posix(), clip.captions) for clip in load_captions(annotation)]
    save_captions(clips, out)
    say("{}: {} videos, {} captions, below {}".format(out, *_sizes(clips), root))


def _sizes(entries: Entries) -> tuple[int, int]:
    """Videos, and captions or questions."""
    texts = sum(len(entry.captions) if isinstance(entry, Clip) else 1 for entry in entries)
    return len({entry.video for entry in entries}), texts


def _fits(entries: Entries, size: Size) -> bool:
    videos, texts = _sizes(entries)
    return size.videos in (None, videos) and size.texts in (None, texts)


def _wrong_size(what: str, entries: Entries, sizes: Sequence[Size], left_out: str) -> ValueError:
    expected = " or ".join(map(str, sizes)) or "at least 1 video"
    hint = "; --any-size goes on with what is there" if entries else ""
    found = "{} videos and {} captions or questions".format(*_sizes(entries))
    return ValueError(f"{what}: {found}, expected {expected}{left_out}{hint}")


def _present(splits: dict[str, Entries], folder: VideoFolder) -> tuple[dict[str, Entries], dict[str, list[str]]]:
    """Entries under the names of their files, and by split the videos without one."""
    present: dict[str, Entries] = {}
    missing: dict[str, list[str]] = {}
    for split, entries in splits.items():
        files = {video: folder.find(video) for video in dict.fromkeys(entry.video for entry in entries)}
        present[split] = [entry._replace(video=files[entry.video]) for entry in entries if files[entry.video]]
        missing[split] = [video for video, file in files.items() if file is None]
    return present, missing


def _hold_out(name: str, splits: dict[str, Entries], count: int) -> dict[str, Entries]:
    """Move `count` training videos to "val": those whose names' hashes are lowest, whatever else is there."""
    if "val" in splits:
        raise ValueError(f"hold_out is {count}, but {name} has a validation split of its own, expected 0")
    videos: Sequence[str] = sorted(
        {entry.video for entry in splits["train"]}, key=lambda video: hashlib.sha256(name_of(video).encode()).digest()
    )
    if not 0 < count < len(videos):
        raise ValueError(f"hold_out is {count}, expected less than the {len(videos)} training videos")
    held = set(videos[:count])
    train = [entry for entry in splits["train"] if entry.video not in held]
    return {"train": train, "val": [entry for entry in splits["train"] if entry.video in held]} | {
        split: entries for split, entries in splits.items() if split != "train"
    }
