"""The pictures of a clip's graphs: that of the text, that of the video, and both with the edges between them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from torch import Tensor

from stgt.figures.style import WIDTH, paper, write
from stgt.figures.text import put_text
from stgt.finsta.graphs.graph import KINDS, ClipGraphs
from stgt.finsta.show.aligned import Aligned, align
from stgt.finsta.show.arcs import text_width
from stgt.finsta.show.colours import track_colours
from stgt.finsta.show.draw_text import TextRow, put_node
from stgt.finsta.show.draw_video import NODE, Lanes
from stgt.terminal import printable

MARGIN, LINE_HEIGHT = 0.08, 0.15
"""Inches"""
BETWEEN = 0.55
"""Inches between the text and the video, which the edges between them cross"""


@paper
def draw_text(clip: ClipGraphs, out: Path) -> None:
    """Draw the graph of the clip's text below the text. `clip.tsg` must be there."""
    row = TextRow(clip.tsg, MARGIN, WIDTH - MARGIN)
    lines = _lines(clip.text, row.right)
    top = MARGIN + LINE_HEIGHT * len(lines) + 0.08
    page = _page(row.right + MARGIN, top + row.height + 0.42)
    _put_lines(page, lines)
    below = row.draw(page, top, _colours_of_nodes(clip, align(clip)))
    x = MARGIN
    for kind in KINDS:
        x += text_width(kind) / 2 + 0.1
        put_node(page, x, below + 0.28, kind, kind)
        x += text_width(kind) / 2 + 0.2
    write(page.figure, out)


@paper
def draw_video(clip: ClipGraphs, images: Sequence[Tensor | None], out: Path) -> None:
    """Draw the graph of the clip's frames. `clip.dsg` must be there; images: see `Lanes.draw`."""
    lanes = Lanes(clip.dsg, MARGIN, WIDTH - MARGIN, _shape(images))
    page = _page(WIDTH, lanes.height + 2 * MARGIN)
    lanes.draw(page, MARGIN, track_colours(lanes.looks), images)
    write(page.figure, out)


@paper
def draw_whole(clip: ClipGraphs, images: Sequence[Tensor | None], out: Path) -> None:
    """Draw both graphs with the edges between them. The clip must have both."""
    row = TextRow(clip.tsg, MARGIN, WIDTH - MARGIN)
    lanes = Lanes(clip.dsg, MARGIN, row.right, _shape(images))
    lines = _lines(clip.text, row.right)
    top = MARGIN + LINE_HEIGHT * len(lines) + 0.08
    page = _page(row.right + MARGIN, top + row.height + BETWEEN + lanes.height + MARGIN)
    _put_lines(page, lines)
    aligned = align(clip)
    below = row.draw(page, top, _colours_of_nodes(clip, aligned))
    lanes.draw(page, below + BETWEEN, track_colours(lanes.looks), images)
    _draw_edges(page, row, lanes, below, aligned)
    write(page.figure, out)


def _draw_edges(page: Axes, row: TextRow, lanes: Lanes, below: float, aligned: Aligned) -> None:
    """Draw the edges from each object of the text to the sightings of its tracks."""
    places, colours = {each.node.id: each.x for each in row.nodes}, track_colours(lanes.looks)
    style = dict(fill=False, lw=0.8, alpha=0.55, zorder=0.5, ls="-" if aligned.known else (0, (3, 1.5)))
    for node, tracks in aligned.tracks.items():
        for number, frame in enumerate(lanes.video.frames):
            for track in {thing.track for thing in frame.objects}.intersection(tracks):
                x0, y0, x1, y1 = places[node], below, lanes.x(number), lanes.y(below + BETWEEN, track) - NODE
                middle = below + BETWEEN * 0.6
                curve = Outline([(x0, y0), (x0, middle), (x1, below + 0.1), (x1, y1)], [1, 4, 4, 4])
                page.add_patch(PathPatch(curve, ec=colours[track], **style))


def _colours_of_nodes(clip: ClipGraphs, aligned: Aligned) -> dict[int, str]:
    """{id of an object: the colour of its track}, for the objects that are about one track."""
    if clip.dsg is None:
        return {}
    colours = track_colours(thing.track for frame in clip.dsg.frames for thing in frame.objects)
    return {node: colours[tracks[0]] for node, tracks in aligned.tracks.items() if len(tracks) == 1}


def _page(width: float, height: float) -> Axes:
    """An axis over a whole new figure, in inches from the upper left corner."""
    figure = Figure(figsize=(width, height))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    page.set_axis_off()
    return page


def _lines(text: str, width: float) -> list[str]:
    return textwrap.wrap(printable(text), max(20, int((width - 2 * MARGIN) / text_width("n", 8)))) or [""]


def _put_lines(page: Axes, lines: Sequence[str]) -> None:
    for number, line in enumerate(lines):
        put_text(page, MARGIN, MARGIN + LINE_HEIGHT * (number + 0.75), line, fontsize=8, fontstyle="italic")


def _shape(images: Sequence[Tensor | None]) -> tuple[int, int]:
    """Height and width of the frames; those of a square if there are no pictures."""
    return next(((image.shape[0], image.shape[1]) for image in images if image is not None), (1, 1))
