"""Draws the graph of a video: a lane for each track with its motions below, and the frames with their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from stgt.figures.text import put_text
from stgt.finsta.graphs.graph import Frame, VideoGraph
from stgt.finsta.show.aligned import track_looks
from stgt.finsta.show.arcs import text_width
from stgt.finsta.show.colours import FAINT, INK, LINE, on, tint
from stgt.finsta.show.runs import RelationRun, relation_runs

NAMES = 1.25
"""Inches on the left for the names of the tracks"""
LANE, BAR, NODE = 0.3, 0.14, 0.062
"""Inches: the height of a lane without bars, of a bar with a motion, and the radius of a node"""
GAP, TIMES = 0.06, 0.2
"""Inches between frames, and inches above them for their times"""


class Lanes:
    """The places of a video's graph between `left` and `right`, in inches, before it is drawn."""

    def __init__(self, video: VideoGraph, left: float, right: float, shape: tuple[int, int]) -> None:
        """shape: height and width of a frame in pixels."""
        self.video, self.left, self.right = video, left, right
        self.looks = track_looks(video)
        self.step = (right - left - NAMES) / max(len(video.frames), 1)
        self.step = min(self.step, 1.6)
        self.frame = (self.step - GAP) * shape[0] / shape[1]
        """The height of a frame that is drawn"""
        self.runs = relation_runs(video)
        self.bars = {track: self._rows(track) for track in self.looks}
        rows = {track: 1 + max(bars.values(), default=-1) for track, bars in self.bars.items()}
        self.offsets: dict[int, float] = {}
        height = 0.0
        for track in self.looks:
            self.offsets[track] = height + LANE / 2
            height += LANE + BAR * rows[track]
        self.lanes = height
        self.height = height + TIMES + self.frame

    def _rows(self, track: int) -> dict[RelationRun, int]:
        """The row below the lane for each run of a track's relations. Runs of one row do not overlap."""
        rows: dict[RelationRun, int] = {}
        for run in self.runs:
            if run.subject == track:
                taken = {row for other, row in rows.items() if other.first <= run.last and run.first <= other.last}
                rows[run] = next(row for row in range(len(rows) + 1) if row not in taken)
        return rows

    def x(self, number: int) -> float:
        """The middle of a frame's column."""
        return self.left + NAMES + self.step * (number + 0.5)

    def draw(self, axes: Axes, top: float, colours: Mapping[int, str], images: Sequence[Tensor | None]) -> None:
        """Draw the lanes below `top`, and the frames below the lanes.

        colours: {track: its colour}. images: uint8 (H, W, 3) for each frame, or None for an empty one.
        """
        for number in range(len(self.video.frames)):
            x = self.x(number)
            axes.plot([x, x], [top, top + self.lanes + TIMES / 3], color="0.9", lw=0.5, zorder=0)
        for track in self.looks:
            self._draw_lane(axes, top, track, colours)
        self._draw_pairs(axes, top)
        below = top + self.lanes + TIMES
        for number, (frame, image) in enumerate(zip(self.video.frames, images, strict=True)):
            put_text(axes, self.x(number), below - 0.05, f"{frame.t:.2f} s", ha="center", fontsize=6, color="#444444")
            self._draw_frame(axes, self.x(number) - (self.step - GAP) / 2, below, frame, image, colours)

    def y(self, top: float, track: int) -> float:
        return top + self.offsets[track]

    def _draw_lane(self, axes: Axes, top: float, track: int, colours: Mapping[int, str]) -> None:
        y, (label, attributes), colour = self.y(top, track), self.looks[track], colours[track]
        name = _short(" ".join((*attributes, label)), NAMES)
        put_text(axes, self.left + 0.02, y, name, va="center_baseline", fontsize=6.5, color=INK)
        seen = [n for n, frame in enumerate(self.video.frames) if any(o.track == track for o in frame.objects)]
        for one, other in zip(seen, seen[1:], strict=False):
            style = "-" if other == one + 1 else (0, (1.5, 1.5))
            axes.plot([self.x(one), self.x(other)], [y, y], color=colour, lw=1.6, ls=style, zorder=2)
        for number in seen:
            self._put_number(axes, self.x(number), y, track, colours, NODE)
        for run, row in self.bars[track].items():
            self._draw_bar(axes, run, y + NODE + 0.05 + BAR * row, colours)

    def _draw_bar(self, axes: Axes, run: RelationRun, y: float, colours: Mapping[int, str]) -> None:
        """Draw a run of relations as a bar over its frames. A circle at its end is the object."""
        x0, x1, height = self.x(run.first) - 0.42 * self.step, self.x(run.last) + 0.42 * self.step, BAR - 0.03
        style = dict(fc=tint(colours[run.subject], 0.22), ec="none", zorder=1)
        corner = "round,pad=0,rounding_size=0.04"
        axes.add_patch(FancyBboxPatch((x0, y), x1 - x0, height, boxstyle=corner, **style))
        end = x1
        if run.object is not None:
            end -= height
            self._put_number(axes, end + height / 2, y + height / 2, run.object, colours, height / 2)
        said = _short(", ".join(run.predicates), end - x0 - 0.05)
        put_text(
            axes, (x0 + end) / 2, y + height / 2, said,
            ha="center", va="center_baseline", fontsize=5.5, color=INK, zorder=3,
        )  # fmt: skip

    def _put_number(
        self, axes: Axes, x: float, y: float, track: int, colours: Mapping[int, str], radius: float
    ) -> None:
        colour = colours[track]
        axes.add_patch(Circle((x, y), radius, fc=colour, ec="white", lw=0.8, zorder=5))
        style = dict(ha="center", va="center_baseline", fontsize=4.5, color=on(colour), zorder=6)
        put_text(axes, x, y, str(track), **style)

    def _draw_pairs(self, axes: Axes, top: float) -> None:
        """Draw the edges between the objects of a frame that have a relation, from lane to lane."""
        for number, frame in enumerate(self.video.frames):
            for subject, other in {(r.subject, r.object) for r in frame.relations if r.object is not None}:
                x, y0, y1 = self.x(number) + NODE, self.y(top, subject), self.y(top, other)
                style = dict(arrowstyle="-|>,head_length=2,head_width=1", lw=0.6, color="#777777", zorder=3)
                bend = f"arc3,rad={-0.3 if y1 > y0 else 0.3}"
                axes.add_patch(FancyArrowPatch((x, y0), (x, y1), connectionstyle=bend, shrinkA=0, shrinkB=0, **style))

    def _draw_frame(
        self, axes: Axes, x: float, y: float, frame: Frame, image: Tensor | None, colours: Mapping[int, str]
    ) -> None:
        width, height = self.step - GAP, self.frame
        if image is None:
            axes.add_patch(Rectangle((x, y), width, height, fc=FAINT, ec=LINE, lw=0.5))
        else:
            axes.imshow(image.numpy(), extent=(x, x + width, y + height, y), aspect="auto", interpolation="auto")
        for thing in frame.objects:
            x0, y0, x1, y1 = thing.box
            corner, size = (x + x0 * width, y + y0 * height), ((x1 - x0) * width, (y1 - y0) * height)
            halo = [withStroke(linewidth=2.2, foreground="white")]
            colour = colours[thing.track]
            axes.add_patch(Rectangle(corner, *size, fill=False, ec=colour, lw=1.2, path_effects=halo, zorder=5))
            tag = dict(boxstyle="round,pad=0.2", fc=colour, ec="white", lw=0.5)
            style = dict(ha="center", va="center_baseline", fontsize=4.5, color=on(colour), zorder=6, bbox=tag)
            put_text(axes, max(corner[0], x + 0.05), max(corner[1], y + 0.05), str(thing.track), **style)


def _short(text: str, room: float) -> str:
    """The text, cut off if it is wider than `room` inches."""
    letters = max(1, int(room / text_width("n", 5.5)))
    return text if len(text) <= letters else text[: letters - 1] + "…"
