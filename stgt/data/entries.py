"""The entries of annotations: captions of a video, and a question about one."""

from __future__ import annotations

from typing import NamedTuple


class Clip(NamedTuple):
    """A video's file name, relative to the folder of videos, and its captions."""

    video: str
    captions: tuple[str, ...]


class Question(NamedTuple):
    """A question about a video, with its answer. `video` is as in `Clip`; no two questions have the same id."""

    video: str
    question: str
    answer: str
    question_id: int | str
