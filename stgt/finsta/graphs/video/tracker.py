"""A tracker: boxes of one class that overlap from frame to frame are one object."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from stgt.finsta.graphs.video.detections import Detections


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes: (n, 4) and (m, 4), x0 y0 x1 y1 → (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12)


class Tracker:
    """Gives each detection the number of its track. Frames are passed in order of time.

    In each frame, the detections of a label are assigned to the last boxes of the tracks of this label so that the sum
    of overlaps is largest (the Hungarian algorithm). Pairs that overlap less than `least` are not joined. Each
    detection that is left begins a new track.
    """

    def __init__(self, least: float = 0.1, patience: int = 4) -> None:
        """least: smallest intersection over union. patience: frames for which a track may miss its object.

        Raises ValueError unless 0 < least <= 1 and patience >= 0.
        """
        if not 0 < least <= 1:
            raise ValueError(f"least is {least}, expected more than 0 and at most 1")
        if patience < 0:
            raise ValueError(f"patience is {patience}, expected 0 or more")
        self._least, self._patience = least, patience
        self._frame = self._count = 0
        self._last: dict[int, tuple[str, np.ndarray, int]] = {}
        """{track: label, box, frame in which it was seen last}"""

    def update(self, found: Detections) -> np.ndarray:
        """The tracks of the detections of the next frame: int64 (n,)."""
        self._frame += 1
        alive = {track: last for track, last in self._last.items() if self._frame - last[2] <= self._patience + 1}
        tracks = np.full(len(found), -1, np.int64)
        for label in dict.fromkeys(found.labels):
            places = [place for place, other in enumerate(found.labels) if other == label]
            known = [track for track, last in alive.items() if last[0] == label]
            if known:
                overlaps = overlap(found.boxes[places], np.stack([alive[track][1] for track in known]))
                for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
                    if overlaps[row, column] >= self._least:
                        tracks[places[row]] = known[column]
        for place in np.flatnonzero(tracks < 0):
            tracks[place], self._count = self._count, self._count + 1
        for place, track in enumerate(tracks.tolist()):
            alive[track] = (found.labels[place], found.boxes[place], self._frame)
        self._last = alive
        return tracks
