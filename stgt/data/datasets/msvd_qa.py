"""MSVD-QA (Xu et al. 2017): questions about MSVD's clips, in {train,val,test}_qa.json.

The questions name a clip by a number; youtube_mapping.txt has the clip of each number. Videos are <clip>.avi.
"""

from __future__ import annotations

import re
from pathlib import Path

from stgt.data.datasets.dataset import SPLITS, DataSet, Size
from stgt.data.datasets.questions import read_questions
from stgt.data.entries import Question
from stgt.data.lines import read_lines


def read_msvd_qa(source: Path) -> dict[str, list[Question]]:
    """The authors' splits.

    Raises ValueError, naming the file, for a malformed line or entry, and for a question about an unknown clip.
    """
    path = source / "youtube_mapping.txt"
    clips: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2 or not re.fullmatch(r"vid\d+", words[1]) or words[1] in clips:
            raise ValueError(f"{path}: line {number} is {line.strip()!r}, expected a clip and a vid<N> of its own")
        clips[words[1]] = words[0]

    def file_of(video: int) -> str:
        if f"vid{video}" not in clips:
            raise ValueError(f"{path}: no vid{video}, which the questions ask about")
        return f"{clips[f'vid{video}']}.avi"

    return {split: list(read_questions(source / f"{split}_qa.json", file_of)) for split in SPLITS}


MSVD_QA = DataSet(
    read_msvd_qa,
    {
        "train": (Size("the authors' release", 1200, 30_933),),
        "val": (Size("the authors' release", 250, 6415),),
        "test": (Size("the authors' release", 520, 13_157),),
    },
    questions=True,
)
