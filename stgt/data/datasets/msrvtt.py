"""MSRVTT (Xu et al. 2016): 10,000 videos with 20 captions each, in three ways of splitting them.

The captions are in MSRVTT_data.json, or in the two files that the authors published, train_val_videodatainfo.json and
test_videodatainfo.json. MSRVTT_JSFUSION_test.csv is the 1k-A test of JSFusion (Yu et al. 2018). Videos are
video<N>.mp4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stgt.data.datasets.captions import group
from stgt.data.datasets.dataset import DataSet, Size
from stgt.data.datasets.tables import rows, text_of
from stgt.data.entries import Clip
from stgt.data.names import name_of
from stgt.structure import read_json


def read_msrvtt_1ka(source: Path) -> dict[str, list[Clip]]:
    """The 1k-A test with one caption per video, and the 9000 other videos to train on."""
    clips, _ = read_clips(source)
    test = _jsfusion_test(source, clips)
    tested = {clip.video for clip in test}
    return {"train": [clip for clip in clips if clip.video not in tested], "test": test}


def read_msrvtt_7k(source: Path) -> dict[str, list[Clip]]:
    """The 1k-A test, and the 7010 videos of the official training and validation splits to train on."""
    clips, split = read_clips(source)
    train = [clip for clip in clips if split[clip.video] in ("train", "validate")]
    return {"train": train, "test": _jsfusion_test(source, clips)}


def read_msrvtt_full(source: Path) -> dict[str, list[Clip]]:
    """The official splits."""
    clips, split = read_clips(source)
    official = {"train": "train", "val": "validate", "test": "test"}
    return {ours: [clip for clip in clips if split[clip.video] == theirs] for ours, theirs in official.items()}


def read_clips(source: Path) -> tuple[list[Clip], dict[str, str]]:
    """All clips of MSRVTT, and {video: official split}.

    Raises ValueError, naming the file and the video, for a video that has another split, none or two.
    """
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
        for entry in data["videos"]:
            video = f"{text_of(path, entry, 'video_id')}.mp4"
            if text_of(path, entry, "split") not in ("train", "validate", "test") or video in split:
                fault = "there twice" if video in split else f"of the split {entry['split']!r}"
                raise ValueError(f"{path}: {name_of(video)} is {fault}, expected it once: train, validate or test")
            split[video] = entry["split"]
        pairs += [(f"{text_of(path, s, 'video_id')}.mp4", text_of(path, s, "caption")) for s in data["sentences"]]
    clips = group(paths[0], pairs)
    if alone := [clip.video for clip in clips if clip.video not in split]:
        raise ValueError(f"{paths[0]}: {alone[0].removesuffix('.mp4')!r} has captions, expected it among the videos")
    return clips, split


def _jsfusion_test(source: Path, clips: list[Clip]) -> list[Clip]:
    path = source / "MSRVTT_JSFUSION_test.csv"
    captioned = {clip.video for clip in clips}

    def pairs() -> Iterator[tuple[str, str]]:
        for line, row in rows(path, ("video_id", "sentence")):
            video = f"{row['video_id']}.mp4"
            if video not in captioned:
                raise ValueError(
                    f"{path}: the video_id in line {line} is {row['video_id']!r}, expected one that has captions in "
                    "MSRVTT's JSON, such as 'video7'"
                )
            yield video, row["sentence"]

    test = group(path, pairs())
    if twice := [clip.video for clip in test if len(clip.captions) > 1]:
        raise ValueError(f"{path}: {name_of(twice[0])} is there twice, expected one sentence per video")
    return test


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
