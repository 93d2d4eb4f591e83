"""The tracks that the objects of a text are about, for the edges between the two graphs of a clip."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from stgt.finsta.graphs.graph import ClipGraphs, VideoGraph


class Aligned(NamedTuple):
    """The tracks of the objects of a text, and how they are known."""

    tracks: dict[int, tuple[int, ...]]
    """{id of an object of the text: its tracks}"""
    known: bool
    """Whether the tracks are the truth; otherwise they follow from equal words"""


def align(clip: ClipGraphs) -> Aligned:
    """The tracks of each object of the text: the truth where the clip has it, or else the tracks with equal words.

    By words, an object is about the tracks that have its label and most of its attributes.
    """
    if clip.tsg is None or clip.dsg is None:
        return Aligned({}, False)
    objects = {node.id for node in clip.tsg.nodes if node.kind == "object"}
    truth = {g.node: g.tracks for g in clip.grounding if g.node in objects}
    if truth:
        return Aligned(truth, True)
    words = {node.id: node.text for node in clip.tsg.nodes}
    wanted: dict[int, set[str]] = {node: set() for node in objects}
    for edge in clip.tsg.edges:
        if edge.type == "attribute" and edge.source in wanted:
            wanted[edge.source].add(words[edge.target])
    looks = track_looks(clip.dsg)
    found = {}
    for node, attributes in wanted.items():
        same = {track: len(attributes & set(has)) for track, (label, has) in looks.items() if label == words[node]}
        if same:
            found[node] = tuple(track for track, count in same.items() if count == max(same.values()))
    return Aligned(found, False)


def track_looks(video: VideoGraph) -> dict[int, tuple[str, tuple[str, ...]]]:
    """{track: its label and attributes in most of its frames}, in ascending order of the tracks."""
    seen: dict[int, Counter[tuple[str, tuple[str, ...]]]] = {}
    for frame in video.frames:
        for thing in frame.objects:
            seen.setdefault(thing.track, Counter())[thing.label, thing.attributes] += 1
    return {track: seen[track].most_common(1)[0][0] for track in sorted(seen)}
