"""The sets to pre-train on, as they are downloaded. Some of what they list is always gone, so no size is expected."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from stgt.data.annotations import Clip
from stgt.data.files import IMAGES, nameable_files, read_lines
from stgt.data.readers import group, rows
from stgt.structure import read_json

logger = logging.getLogger(__name__)


def read_webvid(source: Path) -> dict[str, list[Clip]]:
    """WebVid-2M or -10M: results_*_train.csv and, if it is there, results_*_val.csv; files <page_dir>/<videoid>.mp4."""
    splits = {}
    for split, path in _tables(source, {"train": "results_*_train.csv", "val": "results_*_val.csv"}):
        pairs = (
            (f"{row['page_dir']}/{row['videoid']}.mp4", row["name"])
            for row in rows(path, ("videoid", "page_dir", "name"))
        )
        splits[split] = group(path, _captioned(path, pairs))
    return splits


def read_cc3m(source: Path) -> dict[str, list[Clip]]:
    """Conceptual Captions 3M, images: an img2dataset folder, or the tables of captions and addresses.

    img2dataset: each image has its caption in a .txt, or in a .json as "caption", beside it. The tables,
    Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv, name no files: the usual downloader
    (DownloadConceptualCaptions) calls an image training/<CRC-32 of its address>, or validation/….
    """
    if not any(source.glob("*.tsv")):
        return {"train": group(source, _captioned(source, _beside(source)))}
    splits = {}
    for split, path in _tables(source, {"train": "Train*.tsv", "val": "Validation*.tsv"}):
        folder = {"train": "training", "val": "validation"}[split]
        splits[split] = group(path, _captioned(path, _addressed(path, folder)))
    return splits


def _addressed(path: Path, folder: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != 2:
            raise ValueError(f"{path}: line {number} has {len(columns)} columns, expected 2: caption, address")
        yield f"{folder}/{zlib.crc32(columns[1].encode())}", columns[0]


def _beside(source: Path) -> Iterator[tuple[str, str]]:
    images = nameable_files(source, IMAGES)
    if not images:
        raise ValueError(f"{source} holds neither *.tsv nor images, expected CC3M's tables or an img2dataset folder")
    for image in images:
        text, facts = (source / image).with_suffix(".txt"), (source / image).with_suffix(".json")
        if text.is_file():
            caption = "".join(read_lines(text))
        else:
            caption = read_json(facts, dict).get("caption")
            if not isinstance(caption, str):
                raise ValueError(f"{facts}: 'caption' is {caption!r}, expected a text")
        yield image, caption


def read_vidal(source: Path) -> dict[str, list[Clip]]:
    """VIDAL: one JSON object of videos; files are <folder>/<id>.mp4. The caption is "polish_mplug", else "mplug"."""
    ((_, path),) = _tables(source, {"train": "*.json"})

    def pairs() -> Iterator[tuple[str, str]]:
        for video, facts in read_json(path, dict).items():
            caption = facts.get("polish_mplug", facts.get("mplug")) if isinstance(facts, dict) else None
            if not isinstance(caption, str) or not isinstance(facts.get("folder"), str):
                raise ValueError(
                    f"{path}: {video!r} is {str(facts)[:80]}, expected texts 'folder' and 'polish_mplug' (or 'mplug')"
                )
            yield f"{facts['folder']}/{video}.mp4", caption

    return {"train": group(path, _captioned(path, pairs()))}


def _tables(source: Path, patterns: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """The one file of each split; that of "train" has to be there."""
    for split, pattern in patterns.items():
        found = sorted(source.glob(pattern))
        if len(found) > 1:
            raise ValueError(f"{source} holds {', '.join(path.name for path in found)}, expected one {pattern}")
        if found:
            yield split, found[0]
        elif split == "train":
            raise ValueError(f"{source} holds no {pattern}, expected one")


def _captioned(path: Path, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The pairs that say something; the log tells how many do not."""
    empty = 0
    for video, caption in pairs:
        if caption.strip():
            yield video, caption
        else:
            empty += 1
    if empty:
        logger.warning("%s: %d captions are empty and were left out", path, empty)
