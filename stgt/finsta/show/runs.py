"""Relations of a video as runs of frames, so that a relation that lasts is named once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stgt.finsta.graphs.graph import VideoGraph


class RelationRun(NamedTuple):
    """Relations of one subject, and one object if there is one, that hold in all frames from `first` to `last`."""

    subject: int
    object: int | None
    first: int
    last: int
    """Numbers of frames, counted from 0"""
    predicates: tuple[str, ...]


def relation_runs(video: VideoGraph) -> list[RelationRun]:
    """The runs of all relations of a video. Relations that hold in the same frames are one run.

    Runs without an object come first, and then those that begin earlier.
    """
    frames: dict[tuple[int, int | None, str], list[int]] = {}
    for number, frame in enumerate(video.frames):
        for said in {(relation.subject, relation.object, relation.predicate): None for relation in frame.relations}:
            frames.setdefault(said, []).append(number)
    joined: dict[tuple[int, int | None, int, int], list[str]] = {}
    for (subject, other, predicate), numbers in frames.items():
        for first, last in _consecutive(numbers):
            joined.setdefault((subject, other, first, last), []).append(predicate)
    runs = [RelationRun(*key, tuple(predicates)) for key, predicates in joined.items()]
    return sorted(runs, key=lambda run: (run.object is not None, run.first))


def _consecutive(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and last number of each run of consecutive numbers, from ascending ones."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
