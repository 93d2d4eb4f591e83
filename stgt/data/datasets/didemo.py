"""DiDeMo (Hendricks et al. 2017), for the retrieval of paragraphs: a video's sentences are its one caption.

The sentences are in {train,val,test}_data.json. Some names end with a dot, after which the ending was lost. Where there
is a {split}_list.txt, as CLIP4Clip has it, it names the videos of the split.
"""

from __future__ import annotations

import logging
from pathlib import Path

from stgt.data.datasets.captions import group, listed
from stgt.data.datasets.dataset import SPLITS, DataSet, Size
from stgt.data.datasets.tables import text_of
from stgt.data.entries import Clip
from stgt.data.names import name_of
from stgt.structure import read_json

logger = logging.getLogger(__name__)


def read_didemo(source: Path) -> dict[str, list[Clip]]:
    """Each video with its sentences, joined in their order.

    The authors' files name some videos twice, with two endings: x.mov and x.mp4 are one video with one paragraph.
    Where there is a list, only the sentences of exactly the names in the list are taken, as CLIP4Clip does.
    """
    splits = {}
    for split in SPLITS:
        path, names = source / f"{split}_data.json", source / f"{split}_list.txt"
        moments = read_json(path, list)
        pairs = [(text_of(path, m, "video"), text_of(path, m, "description")) for m in moments]
        if not names.exists():
            pairs = _one_name_per_video(path, pairs)
        clips = [Clip(clip.video, (" ".join(clip.captions),)) for clip in group(path, pairs)]
        splits[split] = listed(names, clips) if names.exists() else clips
    return splits


def _one_name_per_video(path: Path, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(video, caption) pairs, where names that differ only in their ending are replaced by the first of them."""
    first: dict[str, str] = {}
    for video, _ in pairs:
        first.setdefault(name_of(video), video)
    if second := {video for video, _ in pairs} - set(first.values()):
        logger.warning(
            "%s: %d names are %d videos, because %d names differ from another one only in their ending; the sentences "
            "of both belong to one video", path, len(first) + len(second), len(first), len(second),
        )  # fmt: skip
    return [(first[name_of(video)], caption) for video, caption in pairs]


_NAMES = "the authors' release, counted by file names"
_LATER = "later lists, which lack one video"

DIDEMO = DataSet(
    read_didemo,
    {
        "train": (
            Size("the authors' release", 8395),
            Size(_LATER, 8394),
            Size("CLIP4Clip's list", 8392),
            Size(_NAMES, 8511),
        ),
        "val": (Size("the authors' release and CLIP4Clip's list", 1065), Size(_NAMES, 1094)),
        "test": (
            Size("the authors' release and CLIP4Clip's list", 1004),
            Size(_LATER, 1003),
            Size(_NAMES, 1037),
        ),
    },
)
