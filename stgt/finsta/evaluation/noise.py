"""Scene graphs made worse on purpose, as a detector or a parser with faults would give them.

All functions leave their argument unchanged. The same generator state gives the same faults. A truth about a node or a
track that is gone, or whose track has another number now, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stgt.finsta.graphs.graph import ClipGraphs, Frame, SeenObject, TextGraph, VideoGraph

SMALLEST = 1e-4
"""The smallest width and height of a box that was moved, as a part of the frame"""
THING = "thing"
"""The label of every object without labels"""


def delete_nodes(clip: ClipGraphs, share: float, rng: np.random.Generator) -> ClipGraphs:
    """The graphs without a share of the nodes of the text, of the objects in frames, and of the relations in frames.

    Each node is deleted with the probability `share`, and its edges with it. Raises ValueError unless 0 <= share <= 1.
    """
    _require_share(share)

    def kept() -> bool:
        return rng.random() >= share

    tsg = clip.tsg
    if tsg is not None:
        nodes = tuple(node for node in tsg.nodes if kept())
        there = {node.id for node in nodes}
        tsg = TextGraph(nodes, tuple(edge for edge in tsg.edges if there.issuperset(edge[:2])))
    return _with_truth_left(replace(clip, tsg=tsg), lambda frame: _without(frame, kept))


def _without(frame: Frame, kept: Callable[[], bool]) -> Frame:
    objects = tuple(thing for thing in frame.objects if kept())
    seen = {thing.track for thing in objects} | {None}
    relations = (relation for relation in frame.relations if seen.issuperset((relation.subject, relation.object)))
    return Frame(frame.t, objects, tuple(relation for relation in relations if kept()))


def move_boxes(clip: ClipGraphs, spread: float, rng: np.random.Generator) -> ClipGraphs:
    """The graphs with normally distributed errors in the corners of all boxes.

    spread: the standard deviation of an error, as a part of the box's width or height. Raises ValueError if it is
    negative or not finite.
    """
    if not 0 <= spread < np.inf:
        raise ValueError(f"spread is {spread}, expected 0 or a positive number")

    def moved(thing: SeenObject) -> SeenObject:
        x0, y0, x1, y1 = np.array(thing.box) + spread * rng.standard_normal(4) * (
            np.array([thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]] * 2)
        )
        (x0, x1), (y0, y1) = _ordered(x0, x1), _ordered(y0, y1)
        return replace(thing, box=(x0, y0, x1, y1))

    return _with_frames(clip, lambda frame: replace(frame, objects=tuple(map(moved, frame.objects))))


def _ordered(one: float, other: float) -> tuple[float, float]:
    """Two numbers from 0 to 1 near the given ones, in ascending order and at least SMALLEST apart."""
    low = min(max(min(one, other), 0.0), 1 - SMALLEST)
    return float(low), float(min(max(max(one, other), low + SMALLEST), 1.0))


def flip_labels(clip: ClipGraphs, share: float, labels: Sequence[str], rng: np.random.Generator) -> ClipGraphs:
    """The graphs with a wrong label for a share of the tracks, the same one in all frames.

    labels: at least two different labels that wrong ones are drawn from. Raises ValueError for fewer labels, and unless
    0 <= share <= 1.
    """
    _require_share(share)
    if len(set(labels)) < 2:
        raise ValueError(f"labels is {list(labels)!r}, expected at least two different ones")
    wrong: dict[int, str] = {}
    for track, label in _labels(clip).items():
        if rng.random() < share:
            others = [other for other in dict.fromkeys(labels) if other != label]
            wrong[track] = others[int(rng.integers(len(others)))]

    def renamed(thing: SeenObject) -> SeenObject:
        return replace(thing, label=wrong.get(thing.track, thing.label))

    return _with_frames(clip, lambda frame: replace(frame, objects=tuple(map(renamed, frame.objects))))


def _labels(clip: ClipGraphs) -> dict[int, str]:
    frames = clip.dsg.frames if clip.dsg else ()
    return {thing.track: thing.label for frame in reversed(frames) for thing in frame.objects}


def break_tracks(clip: ClipGraphs, share: float, rng: np.random.Generator) -> ClipGraphs:
    """The graphs in which an object gets a new track between two of its sightings with the probability `share`.

    Raises ValueError unless 0 <= share <= 1.
    """
    _require_share(share)
    tracks = _labels(clip)
    new, number = {track: track for track in tracks}, max(tracks, default=-1) + 1
    seen: set[int] = set()

    def broken(frame: Frame) -> Frame:
        nonlocal number
        for thing in frame.objects:
            if thing.track in seen and rng.random() < share:
                new[thing.track], number = number, number + 1
            seen.add(thing.track)
        objects = tuple(replace(thing, track=new[thing.track]) for thing in frame.objects)
        relations = tuple(
            relation._replace(subject=new[relation.subject], object=None if other is None else new[other])
            for relation in frame.relations
            for other in (relation.object,)
        )
        return Frame(frame.t, objects, relations)

    found = _with_frames(clip, broken)
    whole = {track for track, last in new.items() if track == last}
    return replace(found, grounding=tuple(truth for truth in found.grounding if whole.issuperset(truth.tracks)))


def boxes_alone(clip: ClipGraphs) -> ClipGraphs:
    """The graphs with boxes and tracks only: every label is THING, and there are no attributes or relations.

    Such graphs do not give away which track a word is about, or what an object does.
    """

    def bare(frame: Frame) -> Frame:
        return Frame(frame.t, tuple(replace(thing, label=THING, attributes=()) for thing in frame.objects))

    return _with_frames(clip, bare)


def make_noisy(clip: ClipGraphs, labels: Sequence[str], rng: np.random.Generator) -> ClipGraphs:
    """The graphs with a moderate dose of all faults.

    10% of the nodes and relations are gone, the corners of boxes are 10% of a box off, 10% of the tracks have a wrong
    label, and 5% of the steps from sighting to sighting begin a new track.
    """
    clip = flip_labels(clip, 0.1, labels, rng)
    clip = move_boxes(clip, 0.1, rng)
    return delete_nodes(break_tracks(clip, 0.05, rng), 0.1, rng)


def _with_frames(clip: ClipGraphs, change: Callable[[Frame], Frame]) -> ClipGraphs:
    if clip.dsg is None:
        return clip
    return replace(clip, dsg=VideoGraph(tuple(map(change, clip.dsg.frames))))


def _with_truth_left(clip: ClipGraphs, change: Callable[[Frame], Frame]) -> ClipGraphs:
    """The clip with other frames, and with the truths whose nodes and tracks are still there."""
    clip = _with_frames(clip, change)
    nodes, tracks = {node.id for node in clip.tsg.nodes} if clip.tsg else set(), _labels(clip)
    left = (truth for truth in clip.grounding if truth.node in nodes and tracks.keys() >= set(truth.tracks))
    return replace(clip, grounding=tuple(left))


def _require_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected 0 to 1")
