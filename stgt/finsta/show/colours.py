"""The colours of tracks and of the kinds of nodes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

from matplotlib.colors import to_rgb

# Wong's palette, which people with any kind of colour vision can tell apart, without its black and its yellow, on which
# white is hard to see.
FEW = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GOLDEN = 0.618034
"""A part of the circle of hues. Steps of this size never come back to an earlier hue"""
FAINT, INK, LINE = "#f2f2f2", "#222222", "#8a8a8a"


def track_colours(tracks: Iterable[int]) -> dict[int, str]:
    """{track: its own colour}, in the order of the tracks."""
    return {track: _colour(number) for number, track in enumerate(sorted(set(tracks)))}


def _colour(number: int) -> str:
    if number < len(FEW):
        return FEW[number]
    red, green, blue = colorsys.hls_to_rgb(number * GOLDEN % 1, 0.42, 0.65)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def tint(colour: str, strength: float) -> tuple[float, float, float]:
    """The colour mixed with white: 0 gives white, and 1 the colour."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def on(colour: str) -> str:
    """Black or white, whichever is easier to read on this colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.6 else "white"
