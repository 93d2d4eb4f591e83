"""VIDAL (Zhu et al. 2023), to pre-train on: one JSON object of all videos. Videos are <folder>/<id>.mp4.

The caption is "polish_mplug", or "mplug" where that is missing. Some videos can no longer be fetched, so no size is
expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stgt.data.datasets.captions import group, without_empty
from stgt.data.datasets.dataset import DataSet
from stgt.data.datasets.tables import split_files
from stgt.data.entries import Clip
from stgt.structure import read_json


def read_vidal(source: Path) -> dict[str, list[Clip]]:
    """All videos, to train on."""
    ((_, path),) = split_files(source, {"train": "*.json"})
    return {"train": group(path, without_empty(path, _pairs(path)))}


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for video, facts in read_json(path, dict).items():
        caption = facts.get("polish_mplug", facts.get("mplug")) if isinstance(facts, dict) else None
        if not isinstance(caption, str) or not isinstance(facts.get("folder"), str):
            raise ValueError(
                f"{path}: {video!r} is {str(facts)[:80]}, expected texts 'folder' and 'polish_mplug' (or 'mplug')"
            )
        yield f"{facts['folder']}/{video}.mp4", caption


VIDAL = DataSet(read_vidal)
