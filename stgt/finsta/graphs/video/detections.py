"""The objects that a detector finds in one frame, and a conversion of the results of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Detections:
    """The objects that were found in one frame."""

    boxes: np.ndarray
    """float64 (n, 4): x0, y0, x1, y1 as parts of the frame, from 0 to 1, with x0 < x1 and y0 < y1"""
    labels: tuple[str, ...]
    scores: np.ndarray
    """float64 (n,), from 0 to 1"""
    attributes: tuple[tuple[str, ...], ...] = ()
    """The attributes of each object; empty if no object has any"""

    def __len__(self) -> int:
        return len(self.labels)


def detections(
    boxes: object, labels: Sequence[str], scores: object, width: float, height: float, least: float = 0.0
) -> Detections:
    """Detections from boxes in pixels, (n, 4) x0 y0 x1 y1, cut at the border of the frame.

    width, height: size of the frame in pixels. Boxes that lie outside or have a score below `least` are left out.
    Raises ValueError if there are not as many labels and scores as boxes.
    """
    found, inside = _parts_of_frame(boxes, width, height)
    scores = np.asarray(scores, np.float64).reshape(-1).clip(0, 1).round(5)
    if not len(found) == len(labels) == len(scores):
        raise ValueError(
            f"there are {len(found)} boxes, {len(labels)} labels and {len(scores)} scores, expected equal numbers"
        )
    kept = inside & (scores >= least)
    return Detections(found[kept], tuple(label for label, keep in zip(labels, kept, strict=True) if keep), scores[kept])


def _parts_of_frame(boxes: object, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels as parts of the frame, float64 (n, 4), and whether something of each is in it, bool (n,)."""
    parts = np.asarray(boxes, np.float64).reshape(-1, 4) / (width, height, width, height)
    parts = parts.clip(0, 1).round(5)
    return parts, (parts[:, :2] < parts[:, 2:]).all(1)


class Tracked(Protocol):
    """Results of any tracker whose objects have these arrays, as supervision's Detections do."""

    xyxy: np.ndarray
    """(n, 4), pixels"""
    confidence: np.ndarray | None
    class_id: np.ndarray | None
    tracker_id: np.ndarray | None


def from_tracked(
    result: Tracked, names: Sequence[str] | dict[int, str], width: float, height: float
) -> tuple[Detections, np.ndarray]:
    """The detections of a frame and their tracks, int64 (n,), from another program's result.

    names: the name of each class_id. Objects without a track, whose tracker_id is below 0, and objects
    without a score (NaN) are left out.
    Raises ValueError if the result has no tracks or no classes.
    """
    for name in ("tracker_id", "class_id"):
        if getattr(result, name) is None:
            raise ValueError(f"{name} is None, expected one number per object: the result of a tracker")
    boxes = np.asarray(result.xyxy, np.float64).reshape(-1, 4)
    _, inside = _parts_of_frame(boxes, width, height)
    scores = np.ones(len(boxes)) if result.confidence is None else np.asarray(result.confidence)
    kept = inside & (np.asarray(result.tracker_id) >= 0) & ~np.isnan(scores)
    labels = [str(names[int(number)]) for number in np.asarray(result.class_id)[kept]]
    return (
        detections(boxes[kept], labels, scores[kept], width, height),
        np.asarray(result.tracker_id, np.int64)[kept],
    )
