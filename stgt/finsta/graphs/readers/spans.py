"""Relations that hold during a span of frames, as PVSG, VidVRD and VidOR annotate them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stgt.finsta.graphs.graph import Frame, Relation, SeenObject


class Span(NamedTuple):
    """A relation between two tracks, from frame `begin` to the one before frame `end`."""

    subject: int
    predicate: str
    object: int
    begin: int
    end: int


def frame_within(spans: Iterable[Span], number: int, rate: float, seen: Mapping[int, SeenObject]) -> Frame:
    """The frame of this number, with the relations that hold in it. A relation needs both of its objects.

    rate: frames per second. seen: the objects of the frame by their tracks.
    """
    relations = [
        Relation(span.subject, span.predicate, span.object)
        for span in spans
        if span.begin <= number < span.end and span.subject in seen and span.object in seen
    ]
    return Frame(round(number / rate, 5), tuple(seen.values()), tuple(relations))
