"""Conceptual Captions 3M (Sharma et al. 2018), images to pre-train on: a folder of img2dataset, or the tables.

In a folder of img2dataset each image has its caption in a .txt, or in a .json as "caption", beside it. The tables,
Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv, have a caption and an address in each line, and name no
files: the usual downloader (DownloadConceptualCaptions) calls an image training/<CRC-32 of its address>, or
validation/…. Some images can no longer be fetched, so no size is expected.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from stgt.data.datasets.captions import group, without_empty
from stgt.data.datasets.dataset import DataSet
from stgt.data.datasets.tables import split_files
from stgt.data.entries import Clip
from stgt.data.lines import read_lines
from stgt.data.names import IMAGES
from stgt.data.video_folder import nameable_files
from stgt.structure import read_json


def read_cc3m(source: Path) -> dict[str, list[Clip]]:
    """The training split, and the validation split if its table is there."""
    if not any(source.glob("*.tsv")):
        return {"train": group(source, without_empty(source, _beside(source)))}
    splits = {}
    for split, path in split_files(source, {"train": "Train*.tsv", "val": "Validation*.tsv"}):
        folder = {"train": "training", "val": "validation"}[split]
        splits[split] = group(path, without_empty(path, _addressed(path, folder)))
    return splits


def _addressed(path: Path, folder: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != 2:
            raise ValueError(f"{path}: line {number} has {len(columns)} columns, expected 2: caption, address")
        if "://" not in columns[1]:  # people put a header there for img2dataset
            raise ValueError(f"{path}: the address in line {number} is {columns[1][:80]!r}, expected one with ://")
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


CC3M = DataSet(read_cc3m, images=True)
