"""The style of all pictures: sizes and fonts for a two-column page, and colours that everyone can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from stgt.files import atomic_file

WIDTH = 7.16
"""The width of both columns of a page in inches"""
DPI = 300
RIGHT, WRONG = "#0072b2", "#757575"
REFERENCE = "#e6007e"
SIMILARITY, ATTENTION = matplotlib.colormaps["viridis"], matplotlib.colormaps["magma"]

paper = matplotlib.rc_context(
    {
        "font.size": 7,
        "axes.titlesize": 7,
        "axes.labelsize": 7,
        "xtick.labelsize": 6,
        "ytick.labelsize": 6,
        "legend.fontsize": 6,
        "axes.linewidth": 0.5,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "xtick.major.size": 2,
        "ytick.major.size": 2,
        "lines.linewidth": 1,
    }
)
"""A decorator for functions that draw"""


class Strip:
    """Rows of square pictures under titles: names of the rows on the left, colour bars on the right.

    axes[row][column] count in patches, x to the right and y down, from a frame's upper left corner.
    """

    LEFT, RIGHT, TOP, GAP, WIDEST = 0.85, 0.62, 0.18, 0.04, 1.6

    def __init__(self, rows: Sequence[str], titles: Sequence[str], grid: int, *, bold: int | None = None) -> None:
        """titles: one above each column, all with the same number of lines; bold: the number of the title in bold."""
        lines = 1 + titles[0].count("\n")
        left, top = self.LEFT if any(rows) else self.GAP, self.TOP + 0.11 * (lines - 1)
        side = min((WIDTH - left - self.RIGHT) / len(titles), self.WIDEST)
        width, height = left + len(titles) * side + self.RIGHT, top + len(rows) * side
        self.figure, self.grid, self.axes = Figure(figsize=(width, height)), grid, []
        for number, name in enumerate(rows):
            bottom = height - top - (number + 1) * side + self.GAP
            box = [((left + i * side) / width, bottom / height) for i in range(len(titles))]
            size = ((side - self.GAP) / width, (side - self.GAP) / height)
            self.axes.append([self.figure.add_axes((*corner, *size)) for corner in box])
            self.figure.text(0.02 / width, bottom / height + size[1] / 2, name, va="center", linespacing=1.3)
        for axis in self.figure.axes:
            axis.set(xlim=(0, grid), ylim=(grid, 0), xticks=[], yticks=[])
        for number, (axis, title) in enumerate(zip(self.axes[0], titles, strict=True)):
            axis.set_title(title, pad=4, **(dict(color=REFERENCE, fontweight="bold") if number == bold else {}))

    def colour_bar(self, first: int, last: int, cmap: Colormap, norm: Normalize, label: str, **options) -> None:
        """Draw one colour bar for the rows from `first` to `last`."""
        above, below = (self.axes[row][-1].get_position() for row in (first, last))
        width = self.figure.get_figwidth()
        axis = self.figure.add_axes((above.x1 + 0.08 / width, below.y0, 0.08 / width, above.y1 - below.y0))
        bar = self.figure.colorbar(ScalarMappable(norm, cmap), cax=axis, **options)
        bar.set_label(label, labelpad=2)

    def show_frame(self, axis: Axes, frame: Tensor, *, grey: bool = False) -> None:
        """frame: (S, S, 3) uint8; grey: whether to draw it in light grey, so that a map over it is visible."""
        shown = frame.numpy()
        if grey:
            light = shown @ np.array([0.299, 0.587, 0.114]) / 255
            shown = np.repeat((0.3 + 0.7 * light)[..., None], 3, axis=2)
        axis.imshow(shown, extent=(0, self.grid, self.grid, 0), aspect="auto", interpolation="auto")

    def show_map(self, axis: Axes, values: Tensor, cmap: Colormap, norm: Normalize, alpha: float = 1.0) -> None:
        """values: (rows, columns); NaN is transparent."""
        options = dict(extent=(0, self.grid, self.grid, 0), aspect="auto", interpolation="nearest")
        axis.imshow(values.numpy(), cmap=cmap, norm=norm, alpha=alpha, **options)

    def show_nothing(self, axis: Axes) -> None:
        """Hatch the frame, since it is outside the window."""
        axis.set_facecolor("0.93")
        axis.add_patch(Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, hatch="////", ec="0.8", lw=0))

    def mark(self, axis: Axes, row: int, column: int) -> None:
        """Draw a border around the reference token."""
        halo = [withStroke(linewidth=2.2, foreground="white")]
        style = dict(fill=False, ec=REFERENCE, lw=1.2, path_effects=halo, zorder=5, clip_on=False)
        axis.add_patch(Rectangle((column - 0.15, row - 0.15), 1.3, 1.3, **style))


def write(figure: Figure, out: Path) -> None:
    """Write a figure to a file. The ending of the name gives the format; without an ending it is PNG."""
    FigureCanvasAgg(figure)  # this canvas needs no display
    with atomic_file(out) as partial:
        figure.savefig(partial, dpi=DPI, format=out.suffix.removeprefix(".") or "png")


def squares(frames: Tensor, side: int = 320) -> Tensor:
    """Resize frames to squares as for the model, but larger: uint8 (T, H, W, 3) → (T, S, S, 3).

    S is `side`, or the longer side of the frames if that is smaller.
    """
    side = min(side, max(frames.shape[1:3]))
    resized = F.interpolate(frames.permute(0, 3, 1, 2).float(), (side, side), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
