"""Pictures of retrieval: clips for a sentence, and sentences for a clip, with right answers marked (Fig. 13-14)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from stgt.figures.style import RIGHT, WIDTH, WRONG, paper, write
from stgt.figures.text import put_text
from stgt.terminal import printable

STILLS = 4
"""The number of frames that are shown of a clip"""


class Answer(NamedTuple):
    """One of the first results for a query."""

    name: str
    """A clip's file or a sentence"""
    score: float
    right: bool
    frames: Tensor | None = None
    """(4, S, S, 3) uint8 if it is a clip"""


class Example(NamedTuple):
    """A query and its answers, best first."""

    query: str
    """A sentence, or a clip's file"""
    answers: list[Answer]
    place: int
    """The rank of the best right answer, counted from 1"""
    among: int
    frames: Tensor | None = None
    """(4, S, S, 3) uint8 if it is a clip"""

    def verdict(self) -> str:
        return f"right one at place {self.place} of {self.among}"


@paper
def draw_text_to_video(examples: Sequence[Example], out: Path) -> None:
    """Fig. 13: for each sentence the clips found, four frames each in reading order, the right one ticked."""
    head, foot, gap, columns = 0.2, 0.17, 0.06, max(len(example.answers) for example in examples)
    side = min((WIDTH + gap) / columns, 1.8) - gap
    row = head + side + foot
    figure = Figure(figsize=(columns * (side + gap) - gap, len(examples) * row))
    page = _page(figure)
    for number, example in enumerate(examples):
        top = number * row
        put_text(page, 0, top + 0.13, f"“{_short(example.query, 92)}”", fontsize=7.5)
        page.text(page.get_xlim()[1], top + 0.13, example.verdict(), ha="right", color=WRONG, fontsize=6)
        for column, answer in enumerate(example.answers):
            left, upper = column * (side + gap), top + head
            half = side / 2
            for still, frame in enumerate(answer.frames):
                _still(page, frame, left + still % 2 * half, upper + still // 2 * half, half)
            _frame(page, left, upper, side, answer.right)
            _line(page, left, upper + side + 0.11, column + 1, answer, _short(answer.name, 16))
    write(figure, out)


@paper
def draw_video_to_text(examples: Sequence[Example], out: Path) -> None:
    """Fig. 14: for each clip, four of its frames, the sentences found, the right ones ticked."""
    still, head, line, gap = 0.62, 0.18, 0.125, 0.12
    lines = max(len(example.answers) for example in examples)
    row = head + max(still, lines * line) + gap
    figure = Figure(figsize=(WIDTH, len(examples) * row))
    page = _page(figure)
    for number, example in enumerate(examples):
        top = number * row
        put_text(page, 0, top + 0.12, _short(example.query, 46), fontsize=7.5)
        page.text(WIDTH, top + 0.12, example.verdict(), ha="right", color=WRONG, fontsize=6)
        for place, frame in enumerate(example.frames):
            _still(page, frame, place * still, top + head, still)
        for place, answer in enumerate(example.answers):
            _line(page, STILLS * still + 0.12, top + head + (place + 0.7) * line, place + 1, answer, answer.name)
    write(figure, out)


def _page(figure: Figure) -> Axes:
    """An axis over the whole figure, in inches from the upper left corner, with room for half a line at the sides."""
    width, height = figure.get_size_inches()
    page = figure.add_axes((0.003, 0, 0.994, 1))
    page.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    page.set_axis_off()
    return page


def _still(page: Axes, frame: Tensor, x: float, y: float, side: float) -> None:
    side -= 0.015  # white between frames
    page.imshow(frame.numpy(), extent=(x, x + side, y + side, y), interpolation="auto")


def _frame(page: Axes, x: float, y: float, side: float, right: bool) -> None:
    style = dict(ec=RIGHT, lw=2.2) if right else dict(ec=WRONG, lw=0.5)
    page.add_patch(Rectangle((x - 0.0075, y - 0.0075), side, side, fill=False, **style))


def _line(page: Axes, x: float, y: float, place: int, answer: Answer, name: str) -> None:
    """ "✓ 1.  0.91  name", with a tick for a right one, so that nothing is told by colour alone."""
    colour = RIGHT if answer.right else "0.25"
    page.text(x, y, "✓" if answer.right else "", color=colour, fontweight="bold")
    put_text(page, x + 0.11, y, f"{place}.  {answer.score:.2f}  {_short(name, 78)}", color=colour)


def _short(text: str, length: int) -> str:
    text = printable(text)
    return textwrap.shorten(text, length, placeholder=" …") if " " in text else text[-length:]
