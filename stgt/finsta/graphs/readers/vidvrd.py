"""VidVRD and VidOR: trajectories of objects and relations between them, one JSON file per video.

Keys: video_id, fps, width, height, subject/objects [{tid, category}], trajectories [frame][{tid, bbox {xmin, ymin,
xmax, ymax}}], relation_instances [{subject_tid, object_tid, predicate, begin_fid, end_fid}], where end_fid is
exclusive. VidOR has video_path as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stgt.data.folders import find_files
from stgt.finsta.graphs.graph import ClipGraphs, SeenObject, VideoGraph
from stgt.finsta.graphs.readers.boxes import part_of_frame, words
from stgt.finsta.graphs.readers.published import in_published_form
from stgt.finsta.graphs.readers.spans import Span, frame_within
from stgt.structure import field, read_json


def read_vidvrd(source: Path, videos: Path | None = None) -> Iterator[ClipGraphs]:
    """Every frame of each video. source: a file, or a folder whose JSON files are read, also in its subfolders.

    Raises ValueError that names the file and the entry if it is not in the published format, or if there is no file.
    """
    files = [source / name for name in find_files(source, [".json"]).files] if source.is_dir() else [source]
    if not files:
        raise ValueError(f"{source}: there is no JSON file in the folder, expected one per video")
    for file in files:
        values = read_json(file, dict)
        with in_published_form(str(file)):
            clip = _clip(values, str(file))
        yield clip


def _clip(values: dict, where: str) -> ClipGraphs:
    rate, width, height = (field(values, key, float, where) for key in ("fps", "width", "height"))
    if min(rate, width, height) <= 0:
        raise ValueError(f"{where}: 'fps', 'width', 'height' are {rate}, {width}, {height}, expected more than 0")
    labels = {}
    for number, entry in enumerate(field(values, "subject/objects", list, where)):
        at = f"{where}: subject/objects[{number}]"
        labels[field(entry, "tid", int, at)] = words(field(entry, "category", str, at))
    spans = []
    for number, entry in enumerate(field(values, "relation_instances", list, where)):
        at = f"{where}: relation_instances[{number}]"
        subject, other, begin, end = (
            field(entry, key, int, at) for key in ("subject_tid", "object_tid", "begin_fid", "end_fid")
        )
        spans.append(Span(subject, words(field(entry, "predicate", str, at)), other, begin, end))
    frames = []
    for number, entries in enumerate(field(values, "trajectories", list, where)):
        seen = {}
        for place, entry in enumerate(entries):
            at = f"{where}: trajectories[{number}][{place}]"
            track, corners = field(entry, "tid", int, at), field(entry, "bbox", dict, at)
            sides = [field(corners, key, float, f"{at}: bbox") for key in ("xmin", "ymin", "xmax", "ymax")]
            if track not in labels:
                raise ValueError(f"{at}: 'tid' is {track}, expected one of 'subject/objects'")
            if box := part_of_frame(sides, width, height):
                seen[track] = SeenObject(track, labels[track], 1.0, box)
        frames.append(frame_within(spans, number, rate, seen))
    video = values["video_path"] if "video_path" in values else f"{field(values, 'video_id', str, where)}.mp4"
    return ClipGraphs(video, "", None, VideoGraph(tuple(frames)), "gold")
