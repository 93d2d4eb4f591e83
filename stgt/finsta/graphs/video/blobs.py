"""Finds the objects of simulated clips by their colours, so that graphs of their videos need no trained detector."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
from scipy import ndimage
from torch import Tensor

from stgt.data.shapes.render import SHAPE_DISTANCES
from stgt.data.shapes.scene import COLOURS, SIZES
from stgt.finsta.graphs.video.detections import Detections, detections
from stgt.finsta.graphs.video.tracker import Tracker

NEAR = 80
"""Largest distance of a pixel from its colour, in RGB from 0 to 255"""
VIVID = 55
"""Smallest difference between the channels of a pixel, which sets colours apart from the greyish background"""
DARK = 0.6
"""Brightness of the outline of an object, as a part of the brightness of its colour"""
MARGIN = 1
"""Pixels by which a box is larger than its area on each side, since videos store colours at half the resolution"""
SMALLEST = 0.004
"""Smallest area of an object, as a part of the frame"""
SIGHTINGS = 5
"""Number of frames, those with the largest areas, by which the shape of a track is decided"""
SPREAD = 1.18
"""A track has no size if its radius in the largest fifth of its frames is over this times that in the smallest fifth"""
_ANGLES = np.arange(0, 120, 7.5) * math.pi / 180
_RADII = np.linspace(-1.5, 1.5, 301)


def find_blobs(frames: Tensor) -> tuple[list[Detections], list[np.ndarray]]:
    """The objects of each frame of a simulated clip, and their tracks. frames: uint8 (T, H, W, 3).

    The label is the shape. The attributes are the size, unless it changes, and the colour. They are decided for a whole
    track, since an object that is partly hidden has another outline.
    """
    height, width = frames.shape[1:3]
    tracker = Tracker()
    found, tracks, seen = [], [], {}
    for frame in frames.numpy().astype(np.float32):
        blobs = _blobs(frame)
        boxes = [np.add(box, (-MARGIN, -MARGIN, MARGIN, MARGIN)) for _, box, _ in blobs]
        one = detections(boxes, [colour for colour, _, _ in blobs], np.ones(len(blobs)), width, height)
        own = tracker.update(one)
        found.append(one)
        tracks.append(own)
        for track, (colour, _, mask) in zip(own.tolist(), blobs, strict=True):
            seen.setdefault(track, (colour, []))[1].append(mask)
    looks = {track: _look(colour, masks, height) for track, (colour, masks) in seen.items()}
    named = [
        replace(
            one,
            labels=tuple(looks[track][0] for track in own.tolist()),
            attributes=tuple(looks[track][1] for track in own.tolist()),
        )
        for one, own in zip(found, tracks, strict=True)
    ]
    return named, tracks


def _blobs(frame: np.ndarray) -> list[tuple[str, tuple[int, int, int, int], np.ndarray]]:
    """The connected areas of each colour in a frame: the colour, the box in pixels, and the mask inside it."""
    names = [*COLOURS, *(colour for colour in COLOURS if colour != "white")]  # dark white looks like the background
    shades = np.array([*COLOURS.values(), *(np.multiply(COLOURS[name], DARK) for name in names[len(COLOURS) :])])
    distances = np.stack([np.linalg.norm(frame - np.float32(shade), axis=2) for shade in shades])
    nearest, near = distances.argmin(0), distances.min(0) <= NEAR
    vivid = np.ptp(frame, axis=2) >= VIVID
    found = []
    for colour in COLOURS:
        shown = np.isin(nearest, [place for place, name in enumerate(names) if name == colour]) & near
        # The outline of a white object is as grey as the background, so the area is made one pixel wider on all sides.
        areas, _ = ndimage.label(ndimage.binary_dilation(shown) if colour == "white" else shown & vivid)
        for number, (rows, columns) in enumerate(ndimage.find_objects(areas), start=1):
            mask = areas[rows, columns] == number
            if mask.sum() >= SMALLEST * frame.shape[0] * frame.shape[1]:
                found.append((colour, (columns.start, rows.start, columns.stop, rows.stop), mask))
    return found


def _fits(mask: np.ndarray) -> dict[str, float]:
    """How well each shape fits a mask, turned in the best way: intersection over union."""
    rows, columns = np.nonzero(mask)
    y, x = (np.indices(np.add(mask.shape, 4)) - 2).astype(float)
    y, x = y - rows.mean(), x - columns.mean()
    padded = np.pad(mask, 2)
    found = dict.fromkeys(SHAPE_DISTANCES, 0.0)
    for shape, distance in SHAPE_DISTANCES.items():
        radius = math.sqrt(mask.sum() / _unit_area(shape))
        for angle in _ANGLES:
            cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
            inside = distance(cos * x + sin * y, cos * y - sin * x) <= 0
            found[shape] = max(found[shape], float((inside & padded).sum() / (inside | padded).sum()))
    return found


@cache
def _unit_area(shape: str) -> float:
    """The area of a shape with radius 1."""
    x, y = np.meshgrid(_RADII, _RADII)
    return float((SHAPE_DISTANCES[shape](x, y) <= 0).mean() * (_RADII[-1] - _RADII[0]) ** 2)


def _look(colour: str, masks: list[np.ndarray], side: int) -> tuple[str, tuple[str, ...]]:
    """The shape that fits a track best in the frames that show most of it, and its attributes (size and colour)."""
    votes = Counter()
    for mask in sorted(masks, key=lambda mask: -mask.sum())[:SIGHTINGS]:
        votes.update(_fits(mask))
    shape = votes.most_common(1)[0][0]
    areas = np.array([mask.sum() for mask in masks])
    low, high = np.quantile(areas, (0.2, 0.8))
    if high > SPREAD**2 * low:
        return shape, (colour,)
    middle = math.sqrt(np.median(areas) / _unit_area(shape)) / side
    return shape, (min(SIZES, key=lambda size: abs(math.log(SIZES[size] / middle))), colour)
