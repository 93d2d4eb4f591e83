"""Builds the graph of a video from the detections in its frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stgt.finsta.graphs.graph import Frame, Relation, SeenObject, VideoGraph
from stgt.finsta.graphs.video import geometry
from stgt.finsta.graphs.video.detections import Detections
from stgt.finsta.graphs.video.tracker import Tracker


def video_graph(
    times: Sequence[float], found: Sequence[Detections], tracks: Sequence[np.ndarray] | None = None
) -> VideoGraph:
    """The graph of a video with geometric relations. A relation has the lower one of the scores of its objects.

    times: seconds of the frames, ascending. found: the detections of each frame. tracks: the track of each detection,
    int64 (n,) per frame, from any tracker; `Tracker` is used if not given.
    Raises ValueError if the numbers of frames or objects differ.
    """
    if tracks is None:
        tracker = Tracker()
        tracks = [tracker.update(one) for one in found]
    if not len(times) == len(found) == len(tracks):
        raise ValueError(
            f"there are {len(times)} times, {len(found)} lists of detections and {len(tracks)} of tracks, "
            "expected one of each per frame"
        )
    for number, (one, own) in enumerate(zip(found, tracks, strict=True)):
        if len(one) != len(own) or len(set(own.tolist())) != len(own):
            raise ValueError(
                f"frame {number} has {len(one)} objects and the tracks {own.tolist()}, expected another one for each"
            )
    moving = _motions(times, found, tracks)
    frames = []
    for number, (time, one, own) in enumerate(zip(times, found, tracks, strict=True)):
        numbers = own.tolist()
        scores = dict(zip(numbers, one.scores.tolist(), strict=True))
        relations = geometry.places(one.boxes, numbers)
        relations += [Relation(track, said, None) for track in numbers for said in moving[track].get(number, ())]
        attributes = one.attributes or ((),) * len(one)
        objects = [
            SeenObject(track, label, scores[track], tuple(box), own_attributes)
            for track, label, box, own_attributes in zip(
                numbers, one.labels, one.boxes.tolist(), attributes, strict=True
            )
        ]
        scored = [r._replace(score=min(scores[r.subject], scores.get(r.object, 1.0))) for r in relations]
        frames.append(Frame(round(float(time), 5), tuple(objects), tuple(scored)))
    return VideoGraph(tuple(frames))


def _motions(
    times: Sequence[float], found: Sequence[Detections], tracks: Sequence[np.ndarray]
) -> dict[int, dict[int, list[str]]]:
    """{track: {number of the frame: what the object does there}}"""
    seen: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, (one, own) in enumerate(zip(found, tracks, strict=True)):
        for track, box in zip(own.tolist(), one.boxes, strict=True):
            seen.setdefault(track, []).append((number, box))
    said = {}
    for track, sightings in seen.items():
        numbers = [number for number, _ in sightings]
        moments = np.array([times[number] for number in numbers])
        moved = geometry.motions(moments, np.stack([box for _, box in sightings]))
        said[track] = dict(zip(numbers, moved, strict=True))
    return said
