"""Turns boxes in pixels into parts of the frame, and names of classes into words."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
_DIGITS = 5


def part_of_frame(box: Sequence[float], width: float, height: float) -> Box | None:
    """x0, y0, x1, y1 in pixels → parts of the frame from 0 to 1, cut at its border; None if nothing is inside."""
    sides = (width, height, width, height)
    cut = [round(min(max(place / side, 0.0), 1.0), _DIGITS) for place, side in zip(box, sides, strict=True)]
    return tuple(cut) if cut[0] < cut[2] and cut[1] < cut[3] else None


def words(name: str) -> str:
    """The name of a class or a predicate with spaces in place of underscores."""
    return name.replace("_", " ")
