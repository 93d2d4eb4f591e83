"""Relations that follow from boxes alone: where objects lie, and how they move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stgt.finsta.graphs.graph import Relation

WINDOW = 0.5
"""Seconds around a frame over which a movement is measured, so that a box that is a pixel off does not count as one"""
MOVING = 0.08
"""Widths or heights of the frame that an object has to move in a second"""
GROWING = 0.22
"""How much the natural logarithm of an object's size has to change in a second"""


def places(boxes: np.ndarray, tracks: Sequence[int]) -> list[Relation]:
    """The relations of each pair of boxes in a frame. The subject is the box that comes first in the list.

    boxes: (n, 4), x0 y0 x1 y1 with y down. Boxes that do not overlap have one or two of the relations "left of",
    "right of", "above" and "below". Boxes that overlap have one of "inside", "around" and "touching".
    """
    return [
        Relation(tracks[i], predicate, tracks[j])
        for i in range(len(tracks))
        for j in range(i + 1, len(tracks))
        for predicate in _pair(boxes[i], boxes[j])
    ]


def _pair(one: np.ndarray, other: np.ndarray) -> list[str]:
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one, other
    sides = {"left of": x1 <= u0, "right of": x0 >= u1, "above": y1 <= v0, "below": y0 >= v1}
    if apart := [side for side, holds in sides.items() if holds]:
        return apart
    if u0 <= x0 and v0 <= y0 and x1 <= u1 and y1 <= v1:
        return ["inside"]
    return ["around"] if x0 <= u0 and y0 <= v0 and u1 <= x1 and v1 <= y1 else ["touching"]


def motions(times: np.ndarray, boxes: np.ndarray) -> list[list[str]]:
    """The motions of a track at each sighting: "moving left" (right, up, down), and "growing" or "shrinking".

    times: (n,) seconds, ascending. boxes: (n, 4). A list is empty where the object rests, and where the sightings
    within WINDOW are fewer than two.
    """
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, np.log(boxes[:, 2:] - boxes[:, :2]).mean(1)
    found = []
    for time in times:
        near = np.flatnonzero(np.abs(times - time) <= WINDOW / 2 + 1e-9)
        first, last = near[0], near[-1]
        if first == last:
            found.append([])
            continue
        seconds = times[last] - times[first]
        found.append(_motion(*(centres[last] - centres[first]) / seconds, (sizes[last] - sizes[first]) / seconds))
    return found


def _motion(right: float, down: float, growth: float) -> list[str]:
    said = []
    if math.hypot(right, down) >= MOVING:
        sideways, upright = "left" if right < 0 else "right", "up" if down < 0 else "down"
        said.append(f"moving {sideways if abs(right) >= abs(down) else upright}")
    if abs(growth) >= GROWING:
        said.append("growing" if growth > 0 else "shrinking")
    return said
