"""How well a model finds the objects and the time that the words of a text are about, against the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.model.output import ClipGrounding

OVERLAP = 0.5
"""The temporal IoU from which an interval counts as found"""


class ObjectFrame(NamedTuple):
    """One object of a text in one frame in which its track and at least one other are seen."""

    right: bool
    """Whether the track with the largest cosine in this frame is one of the object's"""
    chance: float
    """One divided by the number of tracks in the frame"""


class PredicateTime(NamedTuple):
    """The temporal IoU with the true interval of a predicate: of the model, and of two answers that need no text."""

    found: float
    whole: float
    """The whole clip"""
    changing: float
    """The longest run of frames in which the box of the predicate's subject changes"""
    right_track: bool
    """Whether the model found the track of the subject"""


def object_frames(clip: ClipGraphs, found: ClipGrounding) -> Iterator[ObjectFrame]:
    """The objects of the text whose tracks are known, in each frame in which they can be mixed up."""
    truth = {g.node: set(g.tracks) for g in clip.grounding}
    for node, scores in found.objects.items():
        if node not in truth:
            continue
        own = torch.tensor([track in truth[node] for track in found.tracks])
        for column in scores.T:
            seen = ~column.isnan()
            if int(seen.sum()) >= 2 and (seen & own).any():
                best = int(column.nan_to_num(nan=-math.inf).argmax())
                yield ObjectFrame(bool(own[best]), 1 / int(seen.sum()))


def predicate_times(clip: ClipGraphs, found: ClipGrounding, times: Sequence[float]) -> Iterator[PredicateTime]:
    """The predicates whose interval is known. times: seconds of the host's frames, ascending.

    A frame lasts until the next one begins, and the last one for the mean of the others.
    """
    objects = {node.id for node in clip.tsg.nodes if node.kind == "object"} if clip.tsg else set()
    borders = [*times, times[-1] + ((times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0)]
    for truth in clip.grounding:
        if truth.node in objects or truth.node not in found.predicates:
            continue
        best = found.predicates[truth.node]
        answers = ((best.start, best.end), (0, len(times)), changing_frames(clip, truth.tracks[0], times))
        overlaps = [temporal_iou((borders[a], borders[b]), (truth.start, truth.end)) for a, b in answers]
        yield PredicateTime(*overlaps, best.tracks[:1] == truth.tracks[:1])


def temporal_iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two intervals."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    union = one[1] - one[0] + other[1] - other[0] - shared
    return shared / union if union > 0 else 0.0


def changing_frames(clip: ClipGraphs, track: int, times: Sequence[float]) -> tuple[int, int]:
    """The longest run of the host's frames [start, end) in which a track's box changes, or all frames if it does not.

    A box changes in a frame if it moves or grows from there to the next frame by at least half of its largest step.
    """
    frames = clip.dsg.frames if clip.dsg else ()
    boxes = {frame.t: thing.box for frame in frames for thing in frame.objects if thing.track == track}
    nearest = [min((frame.t for frame in frames), key=lambda t, at=at: abs(t - at), default=None) for at in times]
    states = [_state(boxes[t]) if t in boxes else None for t in nearest]
    steps = [
        0.0 if one is None or other is None else float(np.linalg.norm(np.subtract(one, other)))
        for one, other in zip(states, states[1:], strict=False)
    ]
    if not steps or max(steps) == 0:
        return 0, len(times)
    best, start = (0, 0), 0
    for place, step in enumerate([*steps, 0.0]):
        if step < max(steps) / 2:
            start = place + 1
        elif place + 1 - start > best[1] - best[0]:
            best = (start, place + 1)
    return best


def _state(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The middle of a box, and the logarithms of its width and height."""
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, math.log(x1 - x0), math.log(y1 - y0)


def object_figures(frames: Sequence[ObjectFrame]) -> dict[str, float]:
    """The accuracy and the chance in percent, and the number of frames that were counted; empty if there are none."""
    if not frames:
        return {}
    return {
        "accuracy": _percent([frame.right for frame in frames]),
        "chance": _percent([frame.chance for frame in frames]),
        "frames": len(frames),
    }


def predicate_figures(times: Sequence[PredicateTime]) -> dict[str, float]:
    """In percent: the mean temporal IoU and R@1 at OVERLAP of the model and of the two trivial answers.

    It is empty if there are no predicates.
    """
    if not times:
        return {}
    figures: dict[str, float] = {}
    for name in ("found", "whole", "changing"):
        overlaps = [getattr(time, name) for time in times]
        figures[f"{name}_iou"] = _percent(overlaps)
        figures[f"{name}_R@1"] = _percent([overlap >= OVERLAP for overlap in overlaps])
    return {**figures, "track": _percent([time.right_track for time in times]), "predicates": len(times)}


def _percent(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values))
