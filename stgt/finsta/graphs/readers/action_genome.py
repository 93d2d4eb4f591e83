"""Action Genome: objects that one person in a video of Charades deals with, and their relations.

object_bbox_and_relationship.pkl is {"VIDEO/FRAME.png": [{class, bbox (x, y, w, h), attention_relationship,
spatial_relationship, contacting_relationship: [text], visible, metadata}]}, and person_bbox.pkl is
{"VIDEO/FRAME.png": {bbox (n, 4) x0 y0 x1 y1, bbox_size (w, h)}}. Frames are counted from 1. A class has one instance
in a video. The person is the subject of attention and contact, and the object of relations in space, as in the
evaluation of Action Genome's paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stgt.finsta.graphs.graph import ClipGraphs, Frame, Relation, SeenObject, VideoGraph
from stgt.finsta.graphs.readers.boxes import part_of_frame, words
from stgt.finsta.graphs.readers.media import facts_of
from stgt.finsta.graphs.readers.published import in_published_form
from stgt.finsta.graphs.readers.unpickle import unpickle_plain

PERSON = 0
_FRAME = re.compile(r"(?P<video>.+)/(?P<number>\d{1,9})(\.\w+)?")
_KINDS = ("attention_relationship", "contacting_relationship", "spatial_relationship")


def read_action_genome(folder: Path, videos: Path | None) -> Iterator[ClipGraphs]:
    """The annotated frames of each video, with the person as track 0.

    folder: the folder with the two pickles. videos: Charades' videos, from which the rate of the frames is read.
    Raises ValueError that names the file and the entry if an entry is not in the published format.
    """
    objects_file, persons_file = folder / "object_bbox_and_relationship.pkl", folder / "person_bbox.pkl"
    objects = unpickle_plain(objects_file, dict)
    persons = unpickle_plain(persons_file, dict)
    frames: dict[str, list[tuple[int, str]]] = {}
    for key in objects:
        match = _FRAME.fullmatch(key) if isinstance(key, str) else None
        if match is None or int(match["number"]) < 1:
            raise ValueError(f"{objects_file}: a key is {key!r}, expected VIDEO/FRAME with frames from 1 on")
        frames.setdefault(match["video"], []).append((int(match["number"]), key))
    for video, numbered in sorted(frames.items()):
        rate = facts_of(video, videos, "the rate of the frames", str(objects_file)).rate
        tracks: dict[str, int] = {}
        graphs = []
        for number, key in sorted(numbered):
            with in_published_form(f"{objects_file}: the entry {key!r}"):
                seen, relations = _frame(objects[key], persons[key], tracks)
            graphs.append(Frame(round((number - 1) / rate, 5), seen, relations))
        yield ClipGraphs(video, "", None, VideoGraph(tuple(graphs)), "gold")


def _frame(
    entries: list[dict], person: dict, tracks: dict[str, int]
) -> tuple[tuple[SeenObject, ...], tuple[Relation, ...]]:
    width, height = map(float, person["bbox_size"])
    boxes = [part_of_frame([float(x) for x in box], width, height) for box in person["bbox"][:1]]
    seen = {PERSON: SeenObject(PERSON, "person", 1.0, boxes[0])} if boxes and boxes[0] else {}
    relations = []
    for entry in entries:
        track = tracks.setdefault(entry["class"], len(tracks) + 1)
        if not entry["visible"] or entry["bbox"] is None:
            continue
        x, y, w, h = map(float, entry["bbox"])
        box = part_of_frame((x, y, x + w, y + h), width, height)
        if box is None or track in seen:
            continue
        seen[track] = SeenObject(track, words(entry["class"]), 1.0, box)
        if PERSON not in seen:
            continue
        for kind in _KINDS:
            pair = (track, PERSON) if kind == "spatial_relationship" else (PERSON, track)
            relations += [Relation(pair[0], words(name), pair[1]) for name in entry[kind] or ()]
    return tuple(seen.values()), tuple(relations)
