"""The two annotation formats of this package: captions of videos, and questions about them.

A retrieval annotation is [{"video": "a.mp4", "caption": "…"}], where "caption" may also be a list of texts. A question
annotation is [{"video", "question", "answer", "question_id"}], and has ans2label.json, {"answer": label}, beside it.
Other keys are left alone. In place of JSON, both may be a manifest in Parquet (`stgt.data.manifest`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stgt.data.entries import Clip, Question
from stgt.data.folders import describe_special
from stgt.data.manifest.cache import is_manifest, open_manifest
from stgt.data.manifest.rows import Kind, Manifest
from stgt.data.names import plain
from stgt.files import write_json
from stgt.structure import read_json, shown

# FFmpeg takes letters and digits before a colon, or before a comma with options behind it, for a protocol.
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(,[^:/]*)?:")


def load_captions(path: str | Path) -> list[Clip]:
    """Read a retrieval annotation. Raises a ValueError that names the entry, its value and what was expected."""
    if is_manifest(path):
        manifest = open_manifest(path, kind="captions")
        return [Clip(video, tuple(captions)) for video, captions in zip(manifest, manifest.said(), strict=True)]
    return _clips(path, _entries(path))


def load_said(path: str | Path) -> list[Clip] | list[Question]:
    """Read an annotation in JSON of either kind. One whose entries have both kinds of keys is one of captions."""
    entries = _entries(path)
    asks = "question" in entries[0] and "caption" not in entries[0]
    return _questions(path, entries) if asks else _clips(path, entries)


def _clips(path: str | Path, entries: list[dict]) -> list[Clip]:
    return [Clip(_text(path, i, e, "video"), _captions(path, i, e)) for i, e in enumerate(entries)]


def load_texts(path: str | Path, bad_list: str | Path | None = None) -> Iterator[str]:
    """All captions of a retrieval annotation. Those of a manifest's videos that `bad_list` lists are left out."""
    if is_manifest(path):
        captions = open_manifest(path, load_bad_names(bad_list), kind="captions").said()
    else:
        captions = (clip.captions for clip in load_captions(path))
    return itertools.chain.from_iterable(captions)


def save_captions(clips: Iterable[Clip], path: str | Path) -> None:
    """Write clips as a retrieval annotation. A video with several captions has one entry with a list of them."""
    entries = [{"video": c.video, "caption": c.captions[0] if len(c.captions) == 1 else c.captions} for c in clips]
    write_json(path, entries, indent=0)


def save_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write questions as a question annotation."""
    write_json(path, [question._asdict() for question in questions], indent=0)


def load_questions(path: str | Path) -> list[Question]:
    """Read a question annotation. Raises a ValueError that names the entry, its value and what was expected."""
    if is_manifest(path):
        return [*each_question(path)]
    return _questions(path, _entries(path))


def _questions(path: str | Path, entries: list[dict]) -> list[Question]:
    questions = []
    seen: set[int | str] = set()
    for number, entry in enumerate(entries):
        texts = [_text(path, number, entry, key) for key in ("video", "question", "answer")]
        identity = entry.get("question_id")
        if isinstance(identity, bool) or not isinstance(identity, int | str):
            raise _malformed(path, number, entry, "question_id", "a number or a string")
        if identity in seen:
            raise _malformed(path, number, entry, "question_id", "one that no earlier entry has")
        seen.add(identity)
        questions.append(Question(*texts, identity))
    return questions


def each_question(path: str | Path, bad_list: str | Path | None = None) -> Iterator[Question]:
    """The questions of an annotation. Those about videos that `bad_list` lists are left out."""
    bad = load_bad_names(bad_list)
    if is_manifest(path):
        return itertools.chain.from_iterable(open_manifest(path, bad, kind="questions").said())
    return (question for question in load_questions(path) if question.video not in bad)


def load_answers(path: str | Path) -> dict[str, int]:
    """Read ans2label.json, {answer: label} with the labels 0 to n−1. Raises ValueError for anything else."""
    answers = read_json(path)
    if not isinstance(answers, dict) or not answers:
        raise ValueError(f"{path}: holds {shown(answers)}, expected an object of answers and their labels")
    for answer, label in answers.items():
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(answers):
            raise ValueError(f"{path}: {answer!r} has the label {label!r}, expected 0 to {len(answers) - 1}")
    if len(set(answers.values())) < len(answers):
        raise ValueError(f"{path}: two answers have the same label, expected one label each")
    return answers


def load_bad_list(path: str | Path) -> dict[str, str]:
    """Read the list that `stgt data check` wrote, {video: cause}. Raises ValueError for anything else."""
    bad = read_json(path, dict)
    if wrong := [video for video, cause in bad.items() if not isinstance(cause, str)]:
        raise ValueError(f"{path}: {wrong[0]!r} has {shown(bad[wrong[0]])}, expected a text that tells the cause")
    return bad


def load_bad_names(bad_list: str | Path | None) -> Mapping[str, str]:
    """Read a list of broken videos as `load_bad_list` does. If bad_list is None, it is empty."""
    return {} if bad_list is None else load_bad_list(bad_list)


def load_videos(path: str | Path, bad_list: str | Path | None = None, *, kind: Kind | None = None) -> Sequence[str]:
    """The distinct videos of a retrieval or question annotation, in its order, or the rows of a manifest.

    bad_list: a manifest's videos that it lists are left out. kind: what is wanted of a manifest that holds captions and
    questions; columns of the other kind are then not looked at.
    """
    if is_manifest(path):
        return open_manifest(path, load_bad_names(bad_list), kind=kind)
    return list(dict.fromkeys(_text(path, i, entry, "video") for i, entry in enumerate(_entries(path))))


def require_answers(
    annotation: str | Path, given: Iterable[str], answers: str | Path, rows: Manifest | None = None
) -> None:
    """Raise ValueError if an answer is missing in `answers`, an ans2label.json. It names the annotation and the answer.

    given: the answers of all questions. rows: the manifest that they are from, whose video is then named in place of
    the number of the entry.
    """
    known, count, outside = load_answers(answers), 0, 0
    first: tuple[int, str] = (0, "")
    for number, answer in enumerate(given):
        count = number + 1
        if answer not in known:
            first = first if outside else (number, answer)
            outside += 1
    if outside:
        number, answer = first
        more = f" ({outside} of {count} entries have others)" if outside > 1 else ""
        where = f"entry {number}" if rows is None else f"a question about {rows[rows.pair(number)[0]]}"
        raise ValueError(
            f"{annotation}: in {where} 'answer' is {shown(answer)}, "
            f"expected one of the {len(known)} answers in {answers}{more}"
        )


def require_videos(
    annotation: str | Path, videos: Sequence[str], root: str | Path, bad: Container[str] = frozenset()
) -> None:
    """Raise ValueError, naming annotation, entry and path, if there is no file of a video that is not in `bad`.

    videos: the video of each entry: a path relative to `root`, which may lead out of it by `../`, or an absolute path.
    Addresses and protocols of FFmpeg, such as http://… and concat:…, are not files.
    """
    there = {video: video in bad or os.path.isfile(Path(root) / video) for video in dict.fromkeys(videos)}
    missing = [(number, video) for number, video in enumerate(videos) if not there[video]]
    if missing:
        number, video = missing[0]
        place, cause = Path(root) / video, describe_special(Path(root) / video)
        if protocol := _PROTOCOL.match(video):
            place = video
            cause += f" of this name; addresses and protocols of FFmpeg, such as {protocol[0]}, are no files"
        more = f" ({len(missing)} of {len(videos)} entries are about no file)" if len(missing) > 1 else ""
        raise ValueError(f"{annotation}: entry {number} is about {place}: {cause}{more}")


def require_disjoint(splits: dict[str, Sequence[str]], where: str) -> None:
    """Raise ValueError, naming `where`, the video and both splits, if a video is in two splits.

    A video that `stgt data pack` has packed has the name that it had before. Names of one file, such as a.mp4 and
    ./a.mp4, are the same (`stgt.data.names.plain`).
    """
    owner: dict[str, str] = {}
    last = [*splits][-1]
    for split, names in splits.items():
        videos = map(plain, names.identities() if isinstance(names, Manifest) else names)
        if split != last:
            videos = [*videos]
        if shared := list(dict.fromkeys(video for video in videos if video in owner)):
            other = owner[shared[0]]
            more = f" ({len(shared)} videos are)" if len(shared) > 1 else ""
            raise ValueError(f"{where}: {shared[0]} is in {other} and in {split}, expected it in one of them{more}")
        if split != last:  # The names of the last split are not kept, so it should be the largest one.
            owner.update(dict.fromkeys(videos, split))


def _entries(path: str | Path) -> list[dict]:
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: holds {shown(entries)}, expected a list of entries")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: entry {number} is {shown(entry)}, expected an object")
    return entries


def _text(path: str | Path, number: int, entry: dict, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _malformed(path, number, entry, key, "a text")
    return value


def _captions(path: str | Path, number: int, entry: dict) -> tuple[str, ...]:
    value = entry.get("caption")
    captions = value if isinstance(value, list) else [value]
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise _malformed(path, number, entry, "caption", "a text or a list of texts")
    return tuple(captions)


def _malformed(path: str | Path, number: int, entry: dict, key: str, expected: str) -> ValueError:
    found = f"{key!r} is {shown(entry[key])}" if key in entry else f"there is no {key!r}"
    return ValueError(f"{path}: in entry {number} {found}, expected {expected}")
