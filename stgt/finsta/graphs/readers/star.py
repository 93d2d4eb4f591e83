"""STAR: questions about videos of Charades, each with the situation graphs of its part of the video.

STAR_train.json is [{question_id, question, video_id, start, end, situations {frame: {actions [a012], rel_pairs [[o000,
o012]], rel_labels [r002], bbox [[x0, y0, x1, y1] or null], bbox_labels [o000]}}}]. object_classes.txt,
relationship_classes.txt and action_classes.txt lie beside it, or in the folder STAR_classes beside it. Each of their
lines is a code and its words. Frames are counted from 1, and a class has one instance in a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from stgt.data.lines import read_lines
from stgt.finsta.graphs.graph import ClipGraphs, Frame, Relation, SeenObject, VideoGraph
from stgt.finsta.graphs.readers.boxes import part_of_frame, words
from stgt.finsta.graphs.readers.media import Facts, facts_of
from stgt.finsta.graphs.readers.published import in_published_form
from stgt.structure import field, read_json, shown

_PERSON = "o000"


def read_star(file: Path, videos: Path | None) -> Iterator[ClipGraphs]:
    """The situations of each question, with the question as the clip's text.

    videos: Charades' videos, from which the rate and the size of the frames are read. Raises ValueError that names the
    file and the entry if it is not in the published format, and VideoError for a video that cannot be read.
    """
    beside = file.parent / "STAR_classes"
    folder = beside if beside.is_dir() else file.parent
    names = {kind: _names(folder / f"{kind}_classes.txt") for kind in ("object", "relationship", "action")}
    facts = cache(partial(facts_of, videos=videos, missing="the rate of the frames", where=str(file)))
    for number, entry in enumerate(read_json(file, list)):
        where = f"{file}: entry {number}"
        with in_published_form(where):
            clip = _clip(entry, names, facts, where)
        yield clip


def _clip(entry: dict, names: dict[str, dict[str, str]], facts: Callable[[str], Facts], where: str) -> ClipGraphs:
    video = field(entry, "video_id", str, where) + ".mp4"
    situations = field(entry, "situations", dict, where)
    frames = [
        _frame(name, field(situations, name, dict, f"{where}: situations"), names, facts(video), where)
        for name in sorted(situations, key=lambda name: (len(name), name))
    ]
    return ClipGraphs(video, field(entry, "question", str, where), None, VideoGraph(tuple(frames)), "gold")


def _frame(name: str, situation: dict, names: dict[str, dict[str, str]], facts: Facts, where: str) -> Frame:
    where = f"{where}: situations.{name}"
    if not name.isdecimal() or int(name) < 1:
        raise ValueError(f"{where}: the name of the frame is {shown(name)}, expected its number, from 1 on")
    lists = {
        key: field(situation, key, list, where) for key in ("actions", "rel_pairs", "rel_labels", "bbox", "bbox_labels")
    }
    for one, other in (("bbox", "bbox_labels"), ("rel_pairs", "rel_labels")):
        if len(lists[one]) != len(lists[other]):
            lengths = f"{len(lists[one])} and {len(lists[other])}"
            raise ValueError(f"{where}: {one!r} and {other!r} have {lengths} entries, expected the same number")
    seen: dict[str, SeenObject] = {}
    for code, corners in zip(lists["bbox_labels"], lists["bbox"], strict=True):
        label = _name(names, "object", code, where)
        if corners is None or code in seen:
            continue
        if not isinstance(corners, list) or len(corners) != 4:
            raise ValueError(f"{where}: a 'bbox' is {shown(corners)}, expected [x0, y0, x1, y1] or null")
        if box := part_of_frame(corners, facts.width, facts.height):
            seen[code] = SeenObject(int(code[1:]), label, 1.0, box)
    relations = []
    for pair, label in zip(lists["rel_pairs"], lists["rel_labels"], strict=True):
        predicate = _name(names, "relationship", label, where)
        if all(code in seen for code in pair):
            relations.append(Relation(seen[pair[0]].track, predicate, seen[pair[1]].track))
    if _PERSON in seen:
        actions = (_name(names, "action", code, where).lower() for code in lists["actions"])
        relations += [Relation(seen[_PERSON].track, action, None) for action in actions]
    return Frame(round((int(name) - 1) / facts.rate, 5), tuple(seen.values()), tuple(relations))


def _name(names: dict[str, dict[str, str]], kind: str, code: object, where: str) -> str:
    if not isinstance(code, str) or code not in names[kind]:
        raise ValueError(f"{where}: it names the {kind} {shown(code)}, expected a code of {kind}_classes.txt")
    return names[kind][code]


def _names(file: Path) -> dict[str, str]:
    """{code: words} of a file with a code and its words on each line."""
    lines = (line.strip().partition(" ") for line in read_lines(file))
    return {code: words(name) for code, _, name in lines if code}
