"""Questions in the format of Xu et al. (2017), which MSRVTT-QA and MSVD-QA share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from stgt.data.datasets.tables import text_of
from stgt.data.entries import Question
from stgt.structure import read_json


def read_questions(path: Path, file_of: Callable[[int], str]) -> Iterator[Question]:
    """The questions of a {train,val,test}_qa.json. file_of: the name of the file that a video's number stands for.

    Raises ValueError, naming the file and the entry, for malformed entries, and for an id that occurs twice.
    """
    seen: set[int] = set()
    for number, entry in enumerate(read_json(path, list)):
        for key in ("video_id", "id"):
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{path}: entry {number} is {str(entry)[:80]}, expected a number {key!r}")
        if entry["id"] in seen:
            raise ValueError(f"{path}: entry {number} has the id {entry['id']}, expected one that no earlier entry has")
        seen.add(entry["id"])
        yield Question(
            file_of(entry["video_id"]), text_of(path, entry, "question"), text_of(path, entry, "answer"), entry["id"]
        )
