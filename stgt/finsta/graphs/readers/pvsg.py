"""PVSG: panoptic masks of objects and relations between them, in the folders of OpenPVSG.

pvsg.json has split {data set: {train, val}} and data [{video_id, meta {fps}, objects [{object_id, category}], relations
[[subject, object, predicate, [[first, last], …]]]}], where the last frame of a span belongs to it.
DATASET/masks/VIDEO/0000.png holds the object_id of each pixel, and 0 where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from stgt.finsta.graphs.graph import ClipGraphs, SeenObject, VideoGraph
from stgt.finsta.graphs.readers.boxes import part_of_frame, words
from stgt.finsta.graphs.readers.published import in_published_form
from stgt.finsta.graphs.readers.spans import Span, frame_within
from stgt.structure import field, read_json, shown


def read_pvsg(folder: Path, videos: Path | None = None) -> Iterator[ClipGraphs]:
    """Every frame of each video that has masks. folder: it holds pvsg.json and a folder for each data set.

    Raises ValueError that names the file and the entry if it is not in the published format, or if no video has masks.
    """
    file = folder / "pvsg.json"
    values = read_json(file, dict)
    with in_published_form(f"{file}: 'split'"):
        source_of = {
            video: source
            for source, splits in field(values, "split", dict, str(file)).items()
            for split in splits.values()
            for video in split
        }
    found = False
    for number, entry in enumerate(field(values, "data", list, str(file))):
        where = f"{file}: data[{number}]"
        with in_published_form(where):
            video = field(entry, "video_id", str, where)
            if video not in source_of:
                raise ValueError(f"{where}: 'video_id' is {shown(video)}, expected one that 'split' names")
            masks = sorted((folder / source_of[video] / "masks" / video).glob("*.png"))
            clip = _clip(entry, f"{source_of[video]}/videos/{video}.mp4", masks, where)
        if masks:
            found = True
            yield clip
    if not found:
        raise ValueError(f"{folder}: no video of pvsg.json has masks there, expected DATASET/masks/VIDEO/0000.png")


def _clip(entry: dict, video: str, masks: list[Path], where: str) -> ClipGraphs:
    rate = field(field(entry, "meta", dict, where), "fps", float, f"{where}.meta")
    if rate <= 0:
        raise ValueError(f"{where}.meta: 'fps' is {rate}, expected more than 0")
    labels = {}
    for number, thing in enumerate(field(entry, "objects", list, where)):
        at = f"{where}.objects[{number}]"
        labels[field(thing, "object_id", int, at)] = words(field(thing, "category", str, at))
    spans = []
    for number, relation in enumerate(field(entry, "relations", list, where)):
        try:
            subject, other, predicate, times = relation
            spans += [
                Span(int(subject), words(predicate), int(other), int(first), int(last) + 1) for first, last in times
            ]
        except (TypeError, ValueError, AttributeError):
            expected = "[subject, object, predicate, [[first, last], …]]"
            raise ValueError(f"{where}.relations[{number}]: it is {shown(relation)}, expected {expected}") from None
    frames = tuple(frame_within(spans, int(mask.stem), rate, _seen(mask, labels)) for mask in masks)
    return ClipGraphs(video, "", None, VideoGraph(frames), "gold")


def _seen(mask: Path, labels: dict[int, str]) -> dict[int, SeenObject]:
    """The objects of a frame, each with the smallest box around its pixels."""
    try:
        with Image.open(mask) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{mask}: it cannot be read as a picture ({error}), expected a mask") from error
    if pixels.ndim != 2:
        raise ValueError(f"{mask}: the picture has mode {image.mode}, expected one number per pixel")
    height, width = pixels.shape
    seen = {}
    for track in np.unique(pixels).tolist():
        if track in labels:
            rows, columns = (np.flatnonzero((pixels == track).any(axis)) for axis in (1, 0))
            box = part_of_frame((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), width, height)
            seen[track] = SeenObject(track, labels[track], 1.0, box)
    return seen
