"""The orientation that a camera stores with the picture, applied to the pixels."""

from __future__ import annotations

import struct

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


def _unknown(_: type[Type], value: int) -> Type:
    """A member for a type that this PyAV does not know. Without it, one such type hides all side data of a frame."""
    member = object.__new__(Type)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


Type._missing_ = classmethod(_unknown)

_Matrix = tuple[int, int, int, int]
_AS_STORED: _Matrix = (1, 0, 0, 1)


def display_matrix(frame: VideoFrame) -> _Matrix:
    """The signs (a, b, c, d) of a frame's display matrix: a stored point (x, y) is shown at (a·x + c·y, b·x + d·y).

    The result is the identity if there is no matrix, or if it turns by an angle that is no multiple of 90 degrees.
    """
    data = next((bytes(side) for side in frame.side_data if side.type == Type.DISPLAYMATRIX), None)
    if data is None or len(data) < 36:
        return _AS_STORED
    a, b, _, c, d, *_ = struct.unpack("=9i", data[:36])
    straight, turned = a and d and not b and not c, b and c and not a and not d
    if not (straight or turned):
        return _AS_STORED
    return tuple(int(np.sign(value)) for value in (a, b, c, d))


def turns_sideways(frame: VideoFrame) -> bool:
    """Whether showing the picture swaps its width and height."""
    return display_matrix(frame)[0] == 0


def upright(picture: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """A decoded picture (H, W, 3) as it is shown. A turn by 90 degrees swaps height and width."""
    a, b, c, d = display_matrix(frame)
    if a == 0:
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(picture[:: d or 1, :: a or 1])


def degrees_clockwise(frame: VideoFrame) -> int:
    """The angle by which a player turns the stored picture: 0, 90, 180 or 270. A mirror image counts as 0."""
    return {(0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}.get(display_matrix(frame), 0)
