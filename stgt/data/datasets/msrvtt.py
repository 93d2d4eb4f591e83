"""MSRVTT (Xu et al. 2016): 10,000 videos with 20 captions each, in three ways of splitting them.

The captions are in MSRVTT_data.json, or in the two files that the authors published, train_val_videodatainfo.json and
test_videodatainfo.json. MSRVTT_JSFUSION_test.csv is the 1k-A test of JSFusion (Yu et al. 2018). Videos are
video<N>.mp4.
"""

from __future__ import annotations

from pathlib import Path

from stgt.data.datasets.captions import group
from stgt.data.datasets.dataset import DataSet, Size
from stgt.data.datasets.tables import rows, text_of
from stgt.data.entries import Clip
from stgt.data.names import name_of
from stgt.structure import read_json


def read_msrvtt_1ka(source: Path) -> dict[str, list[Clip]]:
    """The 1k-A test with one caption per video, and the 9000 other videos to train on."""
    test = _jsfusion_test(source)
    tested = {clip.video for clip in test}
    return {"train": [clip for clip in read_clips(source)[0] if clip.video not in tested], "test": test}


def read_msrvtt_7k(source: Path) -> dict[str, list[Clip]]:
    """The 1k-A test, and the 7010 videos of the official training and validation splits to train on."""
    clips, split = read_clips(source)
    train = [clip for clip in clips if split.get(clip.video) in ("train", "validate")]
    return {"train": train, "test": _jsfusion_test(source)}


def read_msrvtt_full(source: Path) -> dict[str, list[Clip]]:
    """The official splits."""
    clips, split = read_clips(source)
    official = {"train": "train", "val": "validate", "test": "test"}
    return {ours: [clip for clip in clips if split.get(clip.video) == theirs] for ours, theirs in official.items()}


def read_clips(source: Path) -> tuple[list[Clip], dict[str, str]]:
    """All clips of MSRVTT, and {video: official split}."""
    paths = [source / "MSRVTT_data.json"]
    if not paths[0].exists() and (source / "train_val_videodatainfo.json").exists():
        paths = [source / f"{part}_videodatainfo.json" for part in ("train_val", "test")]
    split: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for path in paths:
        data = read_json(path, dict)
        for key in ("videos", "sentences"):
            if not isinstance(data.get(key), list):
                raise ValueError(f"{path}: no list of {key!r}, expected {source.name}'s videos and sentences")
        split |= {f"{text_of(path, v, 'video_id')}.mp4": text_of(path, v, "split") for v in data["videos"]}
        pairs += [(f"{text_of(path, s, 'video_id')}.mp4", text_of(path, s, "caption")) for s in data["sentences"]]
    return group(paths[0], pairs), split


def _jsfusion_test(source: Path) -> list[Clip]:
    path = source / "MSRVTT_JSFUSION_test.csv"
    clips = group(path, ((f"{row['video_id']}.mp4", row["sentence"]) for row in rows(path, ("video_id", "sentence"))))
    if twice := [clip.video for clip in clips if len(clip.captions) > 1]:
        raise ValueError(f"{path}: {name_of(twice[0])} is there twice, expected one sentence per video")
    return clips


_JSFUSION = (Size("the 1k-A test of JSFusion", 1000, 1000),)

MSRVTT_1KA = DataSet(read_msrvtt_1ka, {"train": (Size("all but the 1k-A test", 9000, 180_000),), "test": _JSFUSION})
MSRVTT_7K = DataSet(
    read_msrvtt_7k,
    {"train": (Size("the official training and validation splits", 7010, 140_200),), "test": _JSFUSION},
)
MSRVTT_FULL = DataSet(
    read_msrvtt_full,
    {
        "train": (Size("the official split", 6513, 130_260),),
        "val": (Size("the official split", 497, 9940),),
        "test": (Size("the official split", 2990, 59_800),),
    },
)
