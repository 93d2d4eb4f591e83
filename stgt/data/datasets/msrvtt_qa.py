"""MSRVTT-QA (Xu et al. 2017): questions about MSRVTT's videos, in {train,val,test}_qa.json. Videos are video<N>.mp4."""

from __future__ import annotations

from pathlib import Path

from stgt.data.datasets.dataset import SPLITS, DataSet, Size
from stgt.data.datasets.questions import read_questions
from stgt.data.entries import Question


def read_msrvtt_qa(source: Path) -> dict[str, list[Question]]:
    """The authors' splits."""
    return {split: list(read_questions(source / f"{split}_qa.json", "video{}.mp4".format)) for split in SPLITS}


MSRVTT_QA = DataSet(
    read_msrvtt_qa,
    {
        "train": (Size("the authors' release", 6513, 158_581),),
        "val": (Size("the authors' release", 497, 12_278),),
        "test": (Size("the authors' release", 2990, 72_821),),
    },
    questions=True,
)
