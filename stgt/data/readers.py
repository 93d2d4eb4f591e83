"""The files that the benchmarks come with, under the names they are downloaded with, as clips or questions by split."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stgt.data.annotations import Clip, Question
from stgt.data.files import name_of, read_lines
from stgt.structure import read_json, shown

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def read_msrvtt_1ka(source: Path) -> dict[str, list[Clip]]:
    """MSRVTT's 1k-A test (Yu et al., JSFusion), one caption each, and the 9k other videos to train on."""
    test = _msrvtt_test(source)
    return {"train": [clip for clip in _msrvtt(source)[0] if clip.video not in {c.video for c in test}], "test": test}


def read_msrvtt_7k(source: Path) -> dict[str, list[Clip]]:
    """The same test, and the 7k videos of the official training and validation splits."""
    clips, split = _msrvtt(source)
    return {"train": [c for c in clips if split.get(c.video) in ("train", "validate")], "test": _msrvtt_test(source)}


def read_msrvtt_full(source: Path) -> dict[str, list[Clip]]:
    """MSRVTT's official splits (Xu et al. 2016)."""
    clips, split = _msrvtt(source)
    official = {"train": "train", "val": "validate", "test": "test"}
    return {ours: [clip for clip in clips if split.get(clip.video) == theirs] for ours, theirs in official.items()}


def _msrvtt(source: Path) -> tuple[list[Clip], dict[str, str]]:
    """All clips of MSRVTT and the official split of each; files are video<N>.mp4.

    They are read from MSRVTT_data.json, or else from the two files that the authors published,
    train_val_videodatainfo.json and test_videodatainfo.json.
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
        split |= {f"{_value(path, v, 'video_id')}.mp4": _value(path, v, "split") for v in data["videos"]}
        pairs += [(f"{_value(path, s, 'video_id')}.mp4", _value(path, s, "caption")) for s in data["sentences"]]
    return group(paths[0], pairs), split


def _msrvtt_test(source: Path) -> list[Clip]:
    path = source / "MSRVTT_JSFUSION_test.csv"
    clips = group(path, ((f"{row['video_id']}.mp4", row["sentence"]) for row in rows(path, ("video_id", "sentence"))))
    if twice := [clip.video for clip in clips if len(clip.captions) > 1]:
        raise ValueError(f"{path}: {name_of(twice[0])} is there twice, expected one sentence per video")
    return clips


def read_msvd(source: Path) -> dict[str, list[Clip]]:
    """MSVD: raw-captions.json or AllVideoDescriptions.txt, and {train,val,test}_list.txt; files are <clip>.avi.

    raw-captions.pkl is refused: unpickling runs whatever its author wrote into it.
    """
    captions, text, pickled = (
        source / f for f in ("raw-captions.json", "AllVideoDescriptions.txt", "raw-captions.pkl")
    )
    if captions.exists() or not text.exists():
        if pickled.exists() and not captions.exists():
            raise ValueError(
                f"{pickled} is a pickle, which runs code when it is read, and this package reads none. If you trust "
                f'it, make JSON of it: python -c "import json, pickle; json.dump(pickle.load(open({str(pickled)!r}, '
                f"'rb')), open({str(captions)!r}, 'w'))\""
            )
        clips = group(captions, _msvd_pairs(captions))
    else:
        lines = (line.split(maxsplit=1) for line in read_lines(text) if line.strip() and not line.startswith("#"))
        clips = group(text, ((f"{clip}.avi", caption[0] if caption else "") for clip, *caption in lines))
    return {split: _listed(source / f"{split}_list.txt", clips) for split in SPLITS}


def _msvd_pairs(path: Path) -> Iterator[tuple[str, str]]:
    for clip, captions in read_json(path, dict).items():
        if not isinstance(captions, list):
            raise ValueError(f"{path}: {clip!r} has {str(captions)[:80]!r}, expected a list of captions")
        for caption in captions:
            words = [caption] if isinstance(caption, str) else caption
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"{path}: {clip!r} has the caption {shown(caption)}, expected a text or its words")
            yield f"{clip}.avi", caption if isinstance(caption, str) else " ".join(words)


def read_didemo(source: Path) -> dict[str, list[Clip]]:
    """DiDeMo as paragraphs: a video's sentences in {split}_data.json, joined in their order, are its one caption.

    The authors' files name some videos twice, with two endings: x.mov and x.mp4 are one video with one paragraph.
    Where there is a {split}_list.txt, only the sentences of exactly the names that it lists are taken, as CLIP4Clip
    takes them.
    """
    splits = {}
    for split in SPLITS:
        path, listed = source / f"{split}_data.json", source / f"{split}_list.txt"
        moments = read_json(path, list)
        pairs = [(_value(path, m, "video"), _value(path, m, "description")) for m in moments]
        if not listed.exists():
            pairs = _one_name_per_video(path, pairs)
        clips = [Clip(clip.video, (" ".join(clip.captions),)) for clip in group(path, pairs)]
        splits[split] = _listed(listed, clips) if listed.exists() else clips
    return splits


def _one_name_per_video(path: Path, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same pairs with every video under the first of its names, which differ only in their ending."""
    first: dict[str, str] = {}
    for video, _ in pairs:
        first.setdefault(name_of(video), video)
    if second := {video for video, _ in pairs} - set(first.values()):
        logger.warning(
            "%s: %d names are %d videos, because %d names differ from another one only in their ending; the sentences "
            "of both belong to one video", path, len(first) + len(second), len(first), len(second),
        )  # fmt: skip
    return [(first[name_of(video)], caption) for video, caption in pairs]


def read_lsmdc(source: Path) -> dict[str, list[Clip]]:
    """LSMDC 2016: tab-separated tables without a header (clip, four times, sentence); files are <film>/<clip>.avi.

    The test split is the 1000 clips of LSMDC16_challenge_1000_publictect.csv, or else the whole public test set,
    LSMDC16_annos_test.csv.
    """
    files = {
        "train": "LSMDC16_annos_training.csv",
        "val": "LSMDC16_annos_val.csv",
        "test": "LSMDC16_challenge_1000_publictect.csv",
    }
    if not (source / files["test"]).exists() and (source / "LSMDC16_annos_test.csv").exists():
        files["test"] = "LSMDC16_annos_test.csv"
    return {split: group(source / file, _lsmdc_pairs(source / file)) for split, file in files.items()}


def _lsmdc_pairs(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        row = line.rstrip("\r\n").split("\t")
        if len(row) < 6:
            raise ValueError(f"{path}: line {number} has {len(row)} columns, expected 6: clip, 4 times, sentence")
        film = re.sub(r"_[\d.]+-[\d.]+$", "", row[0])
        yield f"{film}/{row[0]}.avi", row[5]


def read_msrvtt_qa(source: Path) -> dict[str, list[Question]]:
    """MSRVTT-QA: {train,val,test}_qa.json (Xu et al. 2017); files are video<N>.mp4."""
    return {split: list(_questions(source / f"{split}_qa.json", "video{}.mp4".format)) for split in SPLITS}


def read_msvd_qa(source: Path) -> dict[str, list[Question]]:
    """MSVD-QA: {train,val,test}_qa.json, and youtube_mapping.txt for the clips that its numbers stand for."""
    path = source / "youtube_mapping.txt"
    clips: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2 or not re.fullmatch(r"vid\d+", words[1]) or words[1] in clips:
            raise ValueError(f"{path}: line {number} is {line.strip()!r}, expected a clip and a vid<N> of its own")
        clips[words[1]] = words[0]

    def file(video: int) -> str:
        if f"vid{video}" not in clips:
            raise ValueError(f"{path}: no vid{video}, which the questions ask about")
        return f"{clips[f'vid{video}']}.avi"

    return {split: list(_questions(source / f"{split}_qa.json", file)) for split in SPLITS}


def _questions(path: Path, file: Callable[[int], str]) -> Iterator[Question]:
    for number, entry in enumerate(read_json(path, list)):
        for key in ("video_id", "id"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), int):
                raise ValueError(f"{path}: entry {number} is {str(entry)[:80]}, expected a number {key!r}")
        yield Question(
            file(entry["video_id"]), _value(path, entry, "question"), _value(path, entry, "answer"), entry["id"]
        )


def _listed(path: Path, clips: list[Clip]) -> list[Clip]:
    """The clips that a file names, one a line, in its order: exactly as a clip is named, or without its ending."""
    exact = {clip.video: clip for clip in clips}
    named: dict[str, list[Clip]] = {}
    for clip in clips:
        named.setdefault(name_of(clip.video), []).append(clip)
    listed: dict[str, Clip] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not (name := name_of(line.strip())):
            continue
        found = [exact[line.strip()]] if line.strip() in exact else named.get(name, [])
        if name in listed or len(found) != 1:
            if name in listed:
                fault = "is there twice"
            else:
                fault = f"is {' or '.join(clip.video for clip in found)}" if found else "has no caption"
            raise ValueError(f"{path}: {name} in line {number} {fault}, expected each captioned video once")
        listed[name] = found[0]
    return list(listed.values())


def group(path: Path, pairs: Iterable[tuple[str, str]]) -> list[Clip]:
    """Clips of (video, caption) pairs, in the order they come first. Raises ValueError for an empty caption."""
    captions: dict[str, list[str]] = {}
    for video, caption in pairs:
        if not caption.strip():
            raise ValueError(f"{path}: {video} has an empty caption, expected a text")
        captions.setdefault(video, []).append(caption.strip())
    return [Clip(video, tuple(texts)) for video, texts in captions.items()]


def rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header that has these columns."""
    # For the csv module a carriage return in a field without quotes is an error; it becomes a space.
    table = csv.DictReader(re.sub(r"\r(?!\n|$)", " ", line) for line in read_lines(path))
    try:
        if missing := [column for column in columns if column not in (table.fieldnames or ())]:
            raise ValueError(
                f"{path}: no column {', '.join(missing)} among {table.fieldnames}, expected them in line 1"
            )
        for number, row in enumerate(table, start=1):
            if any(row[column] is None for column in columns):
                raise ValueError(f"{path}: row {number} is cut short, expected {', '.join(columns)}")
            yield row
    except csv.Error as error:
        raise ValueError(f"{path}: the row after line {table.line_num} is not CSV ({error})") from None


def _value(path: Path, entry: object, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}: {str(entry)[:80]} has no text {key!r}")
    return value
