"""The annotation files that the benchmarks come with, read as clips: `save_captions` makes ours of them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from stgt.data.annotations import Clip


def read_msrvtt(path: str | Path) -> list[Clip]:
    """MSRVTT_data.json, or a split as CSV with captions, MSRVTT_JSFUSION_test.csv; files are video<N>.mp4."""
    if Path(path).suffix == ".csv":
        rows = _rows(path, ("video_id", "sentence"))
        return _group((f"{row['video_id']}.mp4", row["sentence"]) for row in rows)
    sentences = _json(path).get("sentences")
    if not isinstance(sentences, list):
        raise ValueError(f"{path}: no list of 'sentences', expected MSRVTT_data.json")
    return _group((f"{_value(path, s, 'video_id')}.mp4", _value(path, s, "caption")) for s in sentences)


def read_msvd(path: str | Path) -> list[Clip]:
    """MSVD's captions: lines of "<clip> <caption>" as in AllVideoDescriptions.txt, or JSON {clip: [captions]}.

    A caption in JSON may be a list of words. Files are <clip>.avi. raw-captions.pkl is refused: unpickling runs
    whatever its author wrote into it.
    """
    if Path(path).suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{path} is a pickle, which runs code when it is read, and this package reads none. If you trust it, make "
            f"JSON of it yourself: python -c \"import json, pickle; json.dump(pickle.load(open({str(path)!r}, 'rb')), "
            "open('raw-captions.json', 'w'))\""
        )
    if Path(path).suffix == ".json":
        return _group(_msvd_pairs(path))
    lines = (line.split(maxsplit=1) for line in _text(path).splitlines() if line.strip() and not line.startswith("#"))
    return _group((f"{clip}.avi", caption[0] if caption else "") for clip, *caption in lines)


def _msvd_pairs(path: str | Path) -> Iterator[tuple[str, str]]:
    for clip, captions in _json(path).items():
        if not isinstance(captions, list):
            raise ValueError(f"{path}: {clip!r} has {str(captions)[:80]!r}, expected a list of captions")
        for caption in captions:
            yield f"{clip}.avi", caption if isinstance(caption, str) else " ".join(map(str, caption))


def read_didemo(path: str | Path) -> list[Clip]:
    """DiDeMo's JSON; the sentences about a video are joined to one paragraph, in the file's order."""
    moments = _json(path, list)
    clips = _group((_value(path, m, "video"), _value(path, m, "description")) for m in moments)
    return [Clip(clip.video, (" ".join(clip.captions),)) for clip in clips]


def read_lsmdc(path: str | Path) -> list[Clip]:
    """LSMDC's tab-separated table without a header: clip, four times, sentence; files are <film>/<clip>.avi."""
    pairs = []
    for number, row in enumerate(csv.reader(_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)):
        if len(row) < 6:
            raise ValueError(f"{path}: line {number + 1} has {len(row)} columns, expected 6: clip, 4 times, sentence")
        film = re.sub(r"_[\d.]+-[\d.]+$", "", row[0])
        pairs.append((f"{film}/{row[0]}.avi", row[5]))
    return _group(pairs)


def read_webvid(path: str | Path) -> list[Clip]:
    """WebVid's CSV with videoid, page_dir and name; files are <page_dir>/<videoid>.mp4."""
    rows = _rows(path, ("videoid", "page_dir", "name"))
    return _group((f"{row['page_dir']}/{row['videoid']}.mp4", row["name"]) for row in rows)


READERS = {
    "msrvtt": read_msrvtt,
    "msvd": read_msvd,
    "didemo": read_didemo,
    "lsmdc": read_lsmdc,
    "webvid": read_webvid,
}


def read_names(path: str | Path) -> set[str]:
    """Names of videos without folder and ending: a line each, or a CSV's column video_id."""
    if Path(path).suffix == ".csv":
        names = (row["video_id"] for row in _rows(path, ("video_id",)))
    else:
        names = (line.strip() for line in _text(path).splitlines() if line.strip())
    return {name_of(name) for name in names}


def name_of(video: str) -> str:
    """A video's name without its folder and the ending of a video file: LSMDC's names have dots of their own."""
    return re.sub(r"\.(mp4|avi|webm|mkv|mov|m4v|mpg|3gp)$", "", Path(video).name)


def _group(pairs: Iterable[tuple[str, str]]) -> list[Clip]:
    captions: dict[str, list[str]] = {}
    for video, caption in pairs:
        if not caption.strip():
            raise ValueError(f"{video} has an empty caption, expected a text")
        captions.setdefault(video, []).append(caption.strip())
    return [Clip(video, tuple(texts)) for video, texts in captions.items()]


def _rows(path: str | Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    if missing := [column for column in columns if column not in (rows.fieldnames or ())]:
        raise ValueError(f"{path}: no column {', '.join(missing)} among {rows.fieldnames}, expected CSV with a header")
    for number, row in enumerate(rows):
        if any(row[column] is None for column in columns):
            raise ValueError(f"{path}: row {number + 1} is cut short, expected {', '.join(columns)}")
        yield row


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected an annotation") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error})") from None


def _json(path: str | Path, kind: type = dict) -> dict | list:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _value(path: str | Path, entry: object, key: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise ValueError(f"{path}: {str(entry)[:80]} has no text {key!r}")
    return entry[key]
